import multiprocessing

import cv2

from synco_hub.data.opencv import opencv


def threads_in_a_worker() -> int:
    return opencv().getNumThreads()


def test_one_thread_here_and_in_forked_processes() -> None:
    assert opencv() is cv2
    assert cv2.getNumThreads() == 1
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(threads_in_a_worker) == 1
