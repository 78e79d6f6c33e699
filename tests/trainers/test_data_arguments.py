from synco_hub import data
from trainers.settings import DataArguments


def test_the_embedded_data_set_is_the_default():
    assert DataArguments().dataset == "fractals"


def test_streams_are_read_as_the_reader_reads_them():
    settings = data.StreamSettings()
    assert (DataArguments().shuffle_buffer, DataArguments().stream_retries) == (
        settings.shuffle_buffer,
        settings.retries,
    )
