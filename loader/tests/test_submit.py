"""`corpusmill.submit` on a coordinator and a worker in processes of their own."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from test_served import PROGRAM, Cluster, until

import corpusmill
from corpusmill import Event, _native

pytestmark = pytest.mark.skipif(
    not PROGRAM.exists(), reason=f"not run here: submit from Python, there is no program {PROGRAM}: cargo build"
)

SQL = """
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts.csv' OPTIONS ('format.has_header' 'true');
CREATE OR REFRESH CORPUS text
  (PRIMARY KEY (id), CONSTRAINT few EXPECT CORPUS (count(*) < {most}) ON VIOLATION FAIL BUILD)
  WITH (shards = 2) AS SELECT id, body FROM posts;
"""

#: What a person runs in a notebook or a script, and stops with Ctrl-C.
RUN = """
import pathlib, sys, corpusmill
try:
    corpusmill.submit(pathlib.Path(sys.argv[1]), coordinator=sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


class Folder:
    """A coordinator's home, and a folder with data and SQL beside it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder
        self.cluster = Cluster(folder / "home")
        self.cluster.home.mkdir()
        rows = "".join(f"{n},words of post {n}\n" for n in range(1000))
        (folder / "posts.csv").write_text("id,body\n" + rows)

    @property
    def url(self) -> str:
        return f"http://{self.cluster.address}"

    def sql(self, most: int = 10_000) -> pathlib.Path:
        path = self.path / "text.sql"
        path.write_text(SQL.format(most=most))
        return path

    def submit(self, sql: str | pathlib.Path, on_event: Callable[[Event], None] | None = None) -> corpusmill.Result:
        as_of = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)
        return corpusmill.submit(sql, coordinator=self.url, base_dir=self.path, as_of=as_of, on_event=on_event)

    def program(self, *arguments: str) -> str:
        """What the command prints."""
        done = subprocess.run(
            [str(PROGRAM), "--home", str(self.cluster.home), "-o", "json", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture()
def folder(tmp_path: pathlib.Path) -> Iterator[Folder]:
    """With a coordinator, and no worker yet."""
    made = Folder(tmp_path)
    try:
        made.cluster.start_coordinator()
        yield made
    finally:
        made.cluster.stop()


def test_a_build_gives_what_the_command_gives(folder: Folder) -> None:
    folder.cluster.start_worker()
    events: list[Event] = []
    done = folder.submit(folder.sql(), events.append)
    build = done.build
    assert (build.corpus, build.version, build.rows, build.state) == ("text", 0, 1000, "committed")
    assert re.fullmatch("[0-9a-f]{32}-1000", build.digest) and build.report["shards"] == 2
    (listed,) = json.loads(folder.program("corpora"))
    assert (listed["name"], listed["version"], listed["digest"]) == (build.corpus, build.version, build.digest)
    assert done.outcomes[-1] is build and isinstance(done.outcomes[0], str)
    kinds = [event.kind for event in events]
    assert [kinds.count(kind) for kind in ("statement", "build", "step", "step_ends")] == [2, 1, 1, 1]
    # Each is one line, whatever it is.
    assert all(str(event).strip() and "\n" not in str(event) for event in events)

    # The command finds that there is nothing to do: it was the same text, data, and time.
    said = folder.program("submit", "text.sql", "--coordinator", folder.url, "--as-of", "2026-07-01")
    again = json.loads(said.strip().splitlines()[-1])
    assert (again["state"], again["version"], again["digest"]) == ("unchanged", 0, build.digest)

    query = folder.submit("SELECT id, body FROM text WHERE id IN (3, 7) ORDER BY id")
    expected = [{"id": 3, "body": "words of post 3"}, {"id": 7, "body": "words of post 7"}]
    assert query.rows.to_pylist() == expected and not query.builds
    with pytest.raises(LookupError, match="CREATE CORPUS"):
        _ = query.build
    assert folder.submit("SELECT id FROM text WHERE id < 0").rows.arrow().column_names == ["id"]


def test_errors_name_file_and_line_and_say_what_to_do(folder: Folder) -> None:
    folder.cluster.start_worker()
    path = folder.path / "wrong.sql"
    path.write_text("SHOW CORPORA;\n\nSELECT nothing FROM nowhere;\n")
    with pytest.raises(corpusmill.ScriptError, match=rf"^{re.escape(str(path))}:3:.*nowhere"):
        folder.submit(path)
    with pytest.raises(corpusmill.ScriptError, match="^<submit>:1:"):
        folder.submit("SELEC 1")
    with pytest.raises(corpusmill.ExpectationError, match="`few` failed the build.*nothing was published"):
        folder.submit(folder.sql(most=10))
    with pytest.raises(FileNotFoundError):
        folder.submit(folder.path / "missing.sql")
    with pytest.raises(ValueError, match="time zone"):
        corpusmill.submit("SELECT 1", coordinator=folder.url, as_of=datetime.datetime(2026, 7, 1))


def test_an_address_without_a_coordinator_says_how_to_start_one() -> None:
    with pytest.raises(corpusmill.CoordinatorError, match="no coordinator answers at http://127.0.0.1:1 .*start one"):
        corpusmill.submit("SELECT 1", coordinator="http://127.0.0.1:1")
    with pytest.raises(corpusmill.CoordinatorError, match="`nowhere` is no address"):
        corpusmill.submit("SELECT 1", coordinator="nowhere")
    assert issubclass(corpusmill.CoordinatorError, ConnectionError)


def test_ctrl_c_stops_the_script_on_the_coordinator(folder: Folder) -> None:
    # No worker: the build waits for one until somebody stops it.
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder.sql()), folder.url],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "no worker is connected" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (0, "interrupted\n"), err
    assert "stopping cleanly" in err
    (build,) = json.loads(folder.program("builds"))
    assert (build["object"], build["state"]) == ("text", "cancelled")


def test_an_error_of_the_caller_stops_the_script(folder: Folder) -> None:
    def tell(event: Event) -> None:
        if event.kind == "warning":
            raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        folder.submit(folder.sql(), tell)
    (build,) = json.loads(folder.program("builds"))
    assert build["state"] == "cancelled"


def test_a_script_that_was_stopped_says_how_to_go_on(folder: Folder) -> None:
    script = _native.Script(folder.url, folder.sql().read_text(), "text.sql", str(folder.path), None)
    while (heard := script.next()) is not None and "no worker is connected" not in str(heard):
        pass
    script.cancel()
    with pytest.raises(corpusmill.StoppedError, match="go on from the last finished split"):
        while script.next() is not None:
            pass
    assert script.next() is None, "it has ended"


def test_a_coordinator_that_dies_and_comes_back_is_waited_for(folder: Folder) -> None:
    events: list[Event] = []
    results: list[corpusmill.Result] = []
    thread = threading.Thread(target=lambda: results.append(folder.submit(folder.sql(), events.append)))
    thread.start()

    def warned(what: str) -> bool:
        return any(what in str(event) for event in events)

    until("the build waits for a worker", lambda: warned("no worker is connected"))
    folder.cluster.processes[0].kill()
    folder.cluster.processes[0].wait()
    until("it is missed", lambda: warned("the connection to the coordinator is lost"))
    folder.cluster.start_coordinator()
    folder.cluster.start_worker()
    thread.join(120)
    assert not thread.is_alive() and results, folder.cluster.logs()
    # The first statement was done before; what it said comes once.
    assert len(results[0].outcomes) == 2 and results[0].build.rows == 1000


def test_certificates_are_taken_by_argument(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORPUSMILL_CERTS", raising=False)
    certs = tmp_path / "certs"
    subprocess.run([str(PROGRAM), "certs", "init", str(certs)], check=True, capture_output=True)
    home = ["--home", str(tmp_path / "home")]
    coordinator = subprocess.Popen(
        [str(PROGRAM), *home, "coordinator", "--listen", "127.0.0.1:0", "--certs", str(certs)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert coordinator.stdout is not None
        url = coordinator.stdout.readline().strip()
        assert url.startswith("https://")
        with pytest.raises(corpusmill.CoordinatorError, match="CORPUSMILL_CERTS|certs"):
            corpusmill.submit("SELECT 1 AS one", coordinator=url, on_event=None)
        done = corpusmill.submit("SELECT 40 + 2 AS n", coordinator=url, certs=certs, on_event=None)
        assert done.rows.to_pylist() == [{"n": 42}]
    finally:
        coordinator.kill()
        coordinator.wait()
        assert coordinator.stdout is not None
        coordinator.stdout.close()
