"""Datasets by name, from a server of this machine: whole and checked, or one error and nothing left."""

import hashlib
import io
import json
import multiprocessing
import os
import socket
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kgfast import DataError, KnowledgeGraph
from kgfast.cli.main import main
from kgfast.data import fetch
from kgfast.data.published import download
from kgfast.data.published import fetch as published
from kgfast.data.published.table import DATASETS, Dataset, File

pytestmark = pytest.mark.usefixtures("own_cache")
TRAIN, TEST = b"a\tr\tb\nb\tr\tc\n", b"a\tr\tc\n"


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; the numbers in `server.broken` are answered by an error, or cut."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        trouble = server.trouble.pop(0) if server.trouble else None
        body = server.files.get(self.path.rpartition("/")[2])
        if body is None or isinstance(trouble, int):
            return self.send_error(trouble or 404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if trouble else body)
        if trouble == "slow":
            self.wfile.flush()
            server.stuck.wait(20)

    def log_message(self, *args):
        """Nothing on standard error."""


@pytest.fixture
def server(monkeypatch):
    """Answers on this machine: `files` by name, `trouble` that comes first, `asked` so far."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        one.files, one.trouble, one.asked, one.stuck = {}, [], [], threading.Event()
        one.address = f"http://127.0.0.1:{one.server_port}"
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(download, "PAUSE", 0.0)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield one
        one.stuck.set()
        one.shutdown()


def tar(files, **kinds):
    """A .tar.gz of {name: content}; kinds: {name: (type, where it leads)} of what is no plain file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, (kind, target) in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def zipped(files, mode=0):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


WHOLE = {"train.txt": TRAIN, "test.txt": TEST}


@pytest.fixture
def publish(server, monkeypatch):
    """publish(content, ..) makes it the one file of the dataset `towns`; gives the folder that it will lie in."""

    def make(content, sum="sha256", name="towns.tar.gz", **more):
        server.files[name] = content
        known = f"sha256:{hashlib.sha256(content).hexdigest()}" if sum == "sha256" else sum
        files = (File(f"{server.address}/{name}", known),)
        more = {"most": 1 << 20} | more
        one = Dataset("towns", files, 3, 1, 3, len(content), "MIT", "https://towns.example", "Towns 2026", **more)
        monkeypatch.setattr(published, "DATASETS", (one,))
        return published.datasets_folder() / "towns"

    return make


def left(folder):
    """What lies where datasets do, temporary files among it."""
    return sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []


def refused(folder, words, **options):
    with pytest.raises(DataError, match=words):
        fetch("towns", **options)
    assert not any(name.startswith((".", "towns")) and not name.endswith(".json") for name in left(folder))


def test_the_table_is_well_formed():
    names = [one.name for one in DATASETS]
    assert len(set(names)) == len(names) and names == [name.lower() for name in names]
    for one in DATASETS:
        assert one.files and one.cite and one.licence and one.source.startswith("https://")
        for file in one.files:
            kind, _, digits = (file.checksum or "sha256:" + 64 * "0").partition(":")
            assert file.address.startswith("https://") and file.name
            assert len(bytes.fromhex(digits)) == {"sha256": 32, "git": 20}[kind]


def test_what_is_fetched_is_loaded_by_name_and_without_a_network(publish, server, capsys):
    folder = publish(tar(WHOLE))
    with pytest.raises(DataError, match="towns is the name of a dataset that isn't here yet: kgfast data fetch towns"):
        KnowledgeGraph.load("towns")
    assert fetch("towns") == folder and left(folder) == ["towns", "towns.json"]
    server.shutdown()
    graph = KnowledgeGraph.load("towns")
    assert (graph.name, len(graph.train), len(graph.test), graph.report.unread) == ("towns", 2, 1, {})
    assert fetch("towns") == folder and len(server.asked) == 1
    (folder / "test.txt").write_bytes(TRAIN)
    with pytest.raises(DataError, match="towns/test.txt has changed since it was fetched: --again"):
        fetch("towns")


def test_the_command_line(publish, capsys, tmp_path, monkeypatch):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return end.value.code or 0, *capsys.readouterr()

    folder = publish(tar(WHOLE), sum=None)
    code, output, _ = call("data", "fetch", "towns")
    assert code == 0 and str(folder) in output and "licence: MIT" in output and "cite: Towns 2026" in output
    assert "no checksum known; SHA-256" in output and "compared from now on" in output
    listed = json.loads(call("data", "list", "--json")[1])
    assert [(one["name"], one["here"]) for one in listed] == [("towns", True)]
    assert "towns.example" in call("data", "fetch")[1]  # without a name: the list
    code, output, _ = call("data", "towns")
    assert code == 0 and output.startswith("towns: 3 entities, 1 relations")
    small = ("--dim", 4, "--epochs", 1, "tensorboard=false", "--out", tmp_path / "run")
    code, _, error = call("train", "towns", *small)
    assert code == 0 and "towns: 3 entities" in error
    monkeypatch.chdir(tmp_path)
    (tmp_path / "towns").mkdir()  # a folder of that name is the folder
    (tmp_path / "towns" / "train.txt").write_bytes(b"x\ty\tz\n")
    assert call("data", "towns")[1].startswith("towns: 2 entities")
    code, _, error = call("data", "fetch", "town")
    assert code == 2 and "did you mean towns?" in error


def test_sums(publish, server):
    content = tar(WHOLE)
    folder = publish(content, sum="sha256:" + 64 * "0")
    refused(folder, "is not what was published: its SHA-256 is [0-9a-f]{64}, and should be 0000")
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    publish(content, sum=f"git:{git}")
    assert fetch("towns") == folder
    publish(tar({"train.txt": TRAIN}), sum=f"git:{git}")
    with pytest.raises(DataError, match="its git id is"):
        fetch("towns", again=True)
    assert (folder / "test.txt").is_file()  # as it was


def test_trust_on_first_use(publish, server):
    folder = publish(tar(WHOLE), sum=None)
    fetch("towns")
    record = published.record_of("towns")
    assert record["fetched"]["towns.tar.gz"]["known"] is False and record["licence"] == "MIT"
    publish(tar({"train.txt": TRAIN}), sum=None)
    with pytest.raises(DataError, match="had [0-9a-f]{64} when it was fetched first"):
        fetch("towns", again=True)
    assert len(KnowledgeGraph.load("towns").test) == 1
    (folder.parent / "towns.json").unlink()  # as the error says
    fetch("towns", again=True)
    assert not len(KnowledgeGraph.load("towns").test)
    (folder.parent / "towns.json").write_text("{")
    with pytest.raises(DataError, match="towns.json is damaged"):
        fetch("towns")


@pytest.mark.parametrize("trouble", ["cut", 503, 429])
def test_another_try_is_told_and_helps(publish, server, trouble):
    folder, told = publish(tar(WHOLE)), []
    server.trouble = [trouble, trouble]
    assert fetch("towns", say=told.append) == folder
    assert len(told) == 2 and "trying again (3 of 3)" in told[1]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (["cut"] * 3, r"can't be fetched \(tried 3 times\): it ended after [\d,]+ of [\d,]+ bytes.*HTTPS_PROXY"),
        ([404], "can't be fetched: the server answers 404"),
        ([500] * 3, r"\(tried 3 times\): the server answers 500"),
    ],
)
def test_what_fails_leaves_nothing(publish, server, trouble, words):
    folder = publish(tar(WHOLE))
    server.trouble = trouble
    refused(folder, words)


def test_without_a_network(publish, server, monkeypatch):
    folder = publish(tar(WHOLE))

    def no_network(*args, **more):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    refused(folder, r"can't be fetched: no network, or no such host \(Name or service not known\). HTTPS_PROXY names")


def test_https_is_not_left():
    request = urllib.request.Request("https://towns.example/towns.zip")
    with pytest.raises(urllib.error.URLError, match="it leads to http://elsewhere, which isn't https"):
        download.Redirects().redirect_request(request, None, 302, "Found", {}, "http://elsewhere")


def test_a_mirror_and_a_proxy(publish, server, tmp_path, monkeypatch):
    folder = publish(tar(WHOLE))
    (tmp_path / "mirror" / "towns").mkdir(parents=True)
    (tmp_path / "mirror" / "towns" / "towns.tar.gz").write_bytes(server.files["towns.tar.gz"])
    assert fetch("towns", mirror=tmp_path / "mirror", folder=tmp_path / "sets") == tmp_path / "sets" / "towns"
    monkeypatch.setenv("KGFAST_MIRROR", f"{server.address}/of/us/")
    assert fetch("towns") == folder and server.asked == ["/of/us/towns/towns.tar.gz"]
    monkeypatch.setenv("KGFAST_MIRROR", "http://nowhere.invalid")
    monkeypatch.setenv("http_proxy", server.address)
    fetch("towns", again=True)
    assert server.asked[-1] == "http://nowhere.invalid/towns/towns.tar.gz"
    with pytest.raises(DataError, match="mirror='ftp://x': must be an address of http"):
        fetch("towns", mirror="ftp://x", again=True)
    with pytest.raises(DataError, match="mirror=5 is no path"):
        fetch("towns", mirror=5, again=True)
    monkeypatch.setenv("KGFAST_DATASETS", str(tmp_path / "sets"))
    assert len(KnowledgeGraph.load("towns").train) == 2


BAD = {
    "above": (tar({"../train.txt": TRAIN}), "holds '../train.txt', which isn't a path below its folder"),
    "absolute": (tar({"/tmp/train.txt": TRAIN}), "which isn't a path below its folder"),
    "zip above": (zipped({"a/../../train.txt": TRAIN}), "which isn't a path below its folder"),
    "backslash": (zipped({"..\\train.txt": TRAIN}), "which isn't a path below its folder"),
    "link": (tar(WHOLE, link=(tarfile.SYMTYPE, "/etc/passwd")), "'link' .*is no plain file"),
    "hard link": (tar(WHOLE, link=(tarfile.LNKTYPE, "train.txt")), "'link' .*is no plain file"),
    "device": (tar(WHOLE, pipe=(tarfile.FIFOTYPE, "")), "'pipe' .*is no plain file"),
    "zip link": (zipped({"train.txt": b"/etc/passwd"}, 0o120777), "is no plain file"),
    "large": (tar({"train.txt": bytes(2 << 20)}), r"more than [\d,]+ files or 1,048,576 bytes"),
    "zip large": (zipped({"train.txt": bytes(2 << 20)}), r"more than [\d,]+ files or 1,048,576 bytes"),
    "twice": (tar({"train.txt": TRAIN, "./train.txt": TEST}), "holds 'train.txt' twice"),
    "cut": (tar({"train.txt": os.urandom(100_000)})[:50_000], "is no whole archive"),
    "no archive": (b"<html>Log in first</html>", "is no whole archive"),
}


@pytest.mark.parametrize("name", BAD)
def test_archives_are_unpacked_within_their_folder_and_limits(publish, name, tmp_path):
    content, words = BAD[name]
    refused(publish(content), words)


def test_a_zip_that_lies_about_its_size(publish):
    content = zipped({"train.txt": bytes(2 << 20)})
    size = (2 << 20).to_bytes(4, "little")
    assert content.count(size) == 2  # in the file's header and in the list at the end
    refused(publish(content.replace(size, (100).to_bytes(4, "little"))), "is no whole archive|more than 1,048,576")


def test_more_bytes_than_expected_are_not_fetched(publish):
    refused(publish(os.urandom(3000), most=2000), "has more than the 2,000 bytes that are expected")


def test_a_shared_folder_is_left_out_and_members_are_renamed(publish):
    folder = publish(zipped({"towns-v2/train.txt": TRAIN, "towns-v2/more/x": b"1"}), name="towns.zip")
    fetch("towns")
    assert (folder / "train.txt").read_bytes() == TRAIN and (folder / "more" / "x").is_file()
    publish(tar({"towns_train.txt": TRAIN, "readme": b""}), members={"towns_train.txt": "train.txt"})
    fetch("towns", again=True)
    assert [path.name for path in folder.iterdir()] == ["train.txt"]
    publish(tar({"x": b""}), members={"towns_train.txt": "train.txt"})
    with pytest.raises(DataError, match="has no towns_train.txt; it has x"):
        fetch("towns", again=True)


def test_a_process_that_is_killed_leaves_nothing_half(publish, server, tmp_path):
    folder = publish(tar({"train.txt": os.urandom(500_000).hex().encode()}), name="train.tar.gz")
    server.trouble = ["slow"]
    process = multiprocessing.get_context("fork").Process(target=fetch, args=("towns",))
    process.start()
    while not (found := list(folder.parent.glob(".kgfast-*/.train.tar.gz")) if folder.parent.is_dir() else []):
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert found[0].exists() and not folder.exists()
    publish(tar(WHOLE))
    fetch("towns")
    assert left(folder) == ["towns", "towns.json"]  # what the killed process left is gone
