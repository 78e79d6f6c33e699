"""The two views of pretraining: their law (`two_view_parameters`, `view_draw`), the reference way, and faster ways."""
