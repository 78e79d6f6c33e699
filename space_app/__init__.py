"""The Gradio Space: look at what SynCo-v2, MoBY, BYOL and other vision transformers attend to, side by side."""
