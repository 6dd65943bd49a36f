"""conftest.py - a lab for each system test, and the proof that nothing of it stays."""
import pytest

from lab import Lab, leftovers, missing_rights, wait_for


@pytest.fixture
def lab(request):
    why = missing_rights()
    if why is not None:
        pytest.skip(why)
    with Lab() as lab:
        yield lab
        if getattr(request.node, "failed", False):
            for process in lab.processes:
                tail = "".join(f"    {line}\n" for line in process.log().splitlines()[-20:])
                if tail:
                    print(f"{process.name}, last lines:\n{tail}")


@pytest.fixture(scope="session", autouse=True)
def nothing_left():
    """No process, namespace, mount or folder of any lab of this run."""
    yield
    try:
        wait_for(lambda: not leftovers(), 5, "an end of all labs")
    except TimeoutError:
        pytest.fail(f"left behind: {leftovers()}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if call.when == "call":
        item.failed = report.failed
