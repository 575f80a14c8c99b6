import logging

import pytest

from i2pmae.errors import HubError
from i2pmae.hub import HubName, failing_at_once, fetch_folder, fetch_weights, send_folder
from i2pmae.urls import is_hub_name

# huggingface_hub's own way of sending a file through LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")
WEIGHTS = bytes(range(256)) * 10


def test_an_unreachable_hub_means_offline_only_meanwhile(monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    def refuse():
        raise ConnectionError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", refuse)
    with failing_at_once():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("hf://owner/name", "model", ("owner/name", None)),
        ("hf:/owner/name@v1.0", "model", ("owner/name", "v1.0")),  # what pathlib makes of it
        ("hf://my-org/a_b.c@refs/pr/1", "model", ("my-org/a_b.c", "refs/pr/1")),
        ("hf://datasets/owner/name", "dataset", ("owner/name", None)),
        ("hf://owner/name@v1", "dataset", ("owner/name", "v1")),
    ],
)
def test_names(text, kind, expected):
    name = HubName.of(text, kind)
    assert (name.repo, name.revision) == expected
    assert HubName.of(str(name), kind) == name
    assert is_hub_name(text)


@pytest.mark.parametrize(
    "text", ["hf://name", "hf://a/b/c", "hf://a/b@", "hf://a b/c", "hf://datasets/a/b"]
)
def test_names_that_are_none(text):
    with pytest.raises(HubError, match="expected hf://owner/name"):
        HubName.of(text)


def named(text):
    return HubName.of(text)


def test_weights_are_fetched_once_and_their_commit_is_said(hub, capsys):
    commit = hub.add("owner/name", {"model.safetensors": WEIGHTS, "README.md": b"about"})
    file, pinned = fetch_weights(named("hf://owner/name"))
    assert file.read_bytes() == WEIGHTS
    assert str(pinned) == f"hf://owner/name@{commit}"
    assert capsys.readouterr().err.strip() == f"hf://owner/name is {pinned}"
    n_requests = len(hub.requests)
    assert fetch_weights(pinned) == (file, pinned)
    assert len(hub.requests) == n_requests
    hub.add("owner/name", {"model.safetensors": WEIGHTS[::-1]})
    assert fetch_weights(pinned)[0].read_bytes() == WEIGHTS
    assert fetch_weights(named("hf://owner/name"))[0].read_bytes() == WEIGHTS[::-1]


def test_branches_tags_and_other_names_of_the_file(hub):
    commit = hub.add("owner/name", {"small.safetensors": b"x", "small.bin": b"y"})
    hub.repositories["models", "owner/name"].refs["v1"] = commit
    hub.add("owner/name", {"model.safetensors": WEIGHTS})
    file, pinned = fetch_weights(named("hf://owner/name@v1"))
    assert (file.name, pinned.revision) == ("small.safetensors", commit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://owner/nam", "has no model owner/nam, or it is private: .* hf auth login"),
        ("hf://owner/name@v2", "owner/name has no revision v2; after @ comes"),
        ("hf://owner/secret", "has no model owner/secret, or it is private"),
        ("hf://owner/gated", "hf://owner/gated is gated: ask for access"),
        ("hf://owner/pickles", "found none; pytorch_model.bin and the like are not read"),
        ("hf://owner/several", "found 2 of them, none called model.safetensors"),
        ("hf://owner--name/x", "is no name of a repository"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(hub, monkeypatch, name, message):
    monkeypatch.setenv("HF_TOKEN", "")
    hub.add("owner/name", {"model.safetensors": WEIGHTS})
    hub.add("owner/secret", {"model.safetensors": WEIGHTS}, private=True)
    hub.add("owner/gated", {"model.safetensors": WEIGHTS}, gated=True)
    hub.add("owner/pickles", {"pytorch_model.bin": b"code", "config.json": b"{}"})
    hub.add("owner/several", {"a.safetensors": b"a", "b.safetensors": b"b"})
    with pytest.raises(HubError, match=message) as raised:
        fetch_weights(named(name))
    assert "\n" not in str(raised.value)


def test_a_token_opens_what_is_private(hub):
    hub.add("owner/secret", {"model.safetensors": WEIGHTS}, private=True)
    assert fetch_weights(named("hf://owner/secret"))[0].read_bytes() == WEIGHTS


def test_without_network_what_was_fetched_is_found(hub, monkeypatch):
    from huggingface_hub import constants

    commit = hub.add("owner/name", {"model.safetensors": WEIGHTS})
    fetch_weights(named("hf://owner/name"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert fetch_weights(named("hf://owner/name"))[1].revision == commit
    with pytest.raises(HubError, match="cannot be reached, and hf://owner/other is not in the"):
        fetch_weights(named("hf://owner/other"))
    with pytest.raises(HubError, match="cannot be reached"):
        send_folder(named("hf://owner/name"), constants.HF_HUB_CACHE, "message")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_goes_away_meanwhile_is_one_line(monkeypatch):
    answers = iter([True, False])
    monkeypatch.setattr("i2pmae.hub._hub_answers", lambda: next(answers))

    def cut_off(*_, **__):
        assert not logging.getLogger("huggingface_hub.utils").isEnabledFor(logging.WARNING)
        raise AttributeError("'NoneType' object has no attribute 'request'")

    monkeypatch.setattr("huggingface_hub.snapshot_download", cut_off)
    with pytest.raises(HubError, match=r"cannot be reached any more; run the same command again$"):
        fetch_folder(named("hf://owner/name"), ["*"])


def test_damage_in_the_cache_is_found(hub):
    hub.add("owner/name", {"model.safetensors": WEIGHTS})
    file, pinned = fetch_weights(named("hf://owner/name"))
    file.write_bytes(WEIGHTS[::-1])
    with pytest.raises(HubError, match=r"is damaged: its SHA-256 does not match\. Remove the file"):
        fetch_weights(pinned)


def test_a_page_that_is_no_hub_is_said(hub):
    hub.add("owner/name", {"model.safetensors": WEIGHTS})
    hub.headers_left_out = True
    with pytest.raises(HubError, match="does not answer as a Hub does; check HF_ENDPOINT"):
        fetch_weights(named("hf://owner/name"))


def test_folders_are_sent_as_one_commit(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "README.md").write_text("---\nlibrary_name: i2pmae\n---\n")
    sent = send_folder(named("hf://me/new"), tmp_path, "first", private=True)
    assert hub.repositories["models", "me/new"].private
    assert hub.files("me/new").keys() == {"model.safetensors", "README.md"}
    assert fetch_weights(sent)[0].read_bytes() == WEIGHTS
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS[::-1])
    again = send_folder(named("hf://me/new"), tmp_path, "second")
    assert again != sent
    assert fetch_weights(sent)[0].read_bytes() == WEIGHTS  # what was there stays


def test_what_cannot_be_sent_is_one_line(hub, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    hub.broken_uploads = 1
    with pytest.raises(HubError, match="hf://me/new: Bad request: cut off"):
        send_folder(named("hf://me/new"), tmp_path, "first")
    assert hub.repositories["models", "me/new"].commits == {}
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(HubError, match=r"refuses it \(401\): hf://me/new needs a token"):
        send_folder(named("hf://me/new"), tmp_path, "first")
