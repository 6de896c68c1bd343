import pytest


@pytest.fixture
def output(host, tmp_path):
    """A folder for the host's output that starts empty."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)
