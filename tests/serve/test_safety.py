"""Policies say what they refuse and why; what they have not seen is not shown."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safelight.picture import note
from safelight.serve import safety
from safelight.serve.api.answers import MIME
from safelight.serve.safety import NudeNet, Policy, Refused, Words, check_picture, check_words, texts
from safelight.spec import describe, kinds, parse
from tests.serve.live import events, models, serving


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("a red apple", None),
        ("a bad apple", "bad"),
        ("A BÀD apple", "bad"),
        ("bad", "bad"),
        ("badge", None),
        ("not,bad!", "bad"),
        ("very  dark\nthing", "dark thing"),
        ("dark, thing", "dark thing"),
        ("dark blue thing", None),
        ("", None),
        ("b\u200bad", "bad"),
        ("b\u00ada\u2060d", "bad"),
        ("\uff42\uff41\uff44", "bad"),
        ("\U0001d41b\U0001d41a\U0001d41d", "bad"),
        ("(bad:1.3)", "bad"),
        ("[bad]", "bad"),
        ("b\u0334a\u0335d", "bad"),
    ],
)
def test_words_are_whole_words_in_any_dress(text: str, refused: str | None) -> None:
    found = Words(refuse=("bad", "dark thing"), reason="not here").words(text)
    assert (found.what if found else None) == refused
    if found:
        assert found.why == f"'{refused}': not here"


def test_every_text_that_says_what_is_seen_is_looked_at() -> None:
    ends = [{"prompt": "one"}, {"prompt": "two"}]
    request = {"prompt": ["three", "four"], "negative": "five", "task": {"kind": "interpolate", "ends": ends}}
    assert sorted(texts(request)) == ["four", "one", "three", "two"]
    mix = {"task": {"kind": "vary", "of": {"kind": "mix", "expression": '"six"', "captions": ["seven"]}}}
    assert texts(mix) == ['"six"', "seven"]
    with pytest.raises(Refused, match="refused by the safety policy 'words': 'two': this word is not used here"):
        check_words(Words(refuse=("two",)), request)
    check_words(Words(refuse=("five",)), request)  # what shall not be seen may be named


@pytest.mark.parametrize("kind", kinds("safety"))
def test_policies_are_specs(kind: str) -> None:
    policy = parse(kind, "safety")
    assert parse(describe(policy)) == policy
    assert isinstance(policy, Policy)


class Detector:
    """Finds what is told it in pictures that are bright; stands for nudenet's, which is an extra with weights of its own."""

    def detect(self, image: np.ndarray) -> list[dict[str, Any]]:
        assert image.shape[2] == 3
        return [{"class": "BUTTOCKS_EXPOSED", "score": float(image.mean() / 255), "box": [0, 0, 1, 1]}]


def png(light: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), light).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def nudenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", types.SimpleNamespace(NudeDetector=Detector))  # type: ignore[arg-type]
    safety._detector.cache_clear()


def test_pictures_are_refused_by_what_is_found_in_them(nudenet: None) -> None:
    check_picture(NudeNet(), png(100))
    with pytest.raises(Refused, match=r"buttocks exposed \(0\.78 of 1, from 0\.5 on\)") as caught:
        check_picture(NudeNet(), png(200))
    assert caught.value.refusal.what == "BUTTOCKS_EXPOSED"
    check_picture(NudeNet(threshold=0.9), png(200))
    check_picture(NudeNet(labels=("ANUS_EXPOSED",)), png(200))


def test_nothing_unseen_is_shown(nudenet: None, tmp_path: Path) -> None:
    """With a policy that looks at pictures, no frame leaves before the picture was looked at, and none of a refused one."""
    models(tmp_path)
    with serving(tmp_path) as server:
        free = server.run(seed=1, steps=3)
        strict = {"safety": {"kind": "nudenet", "labels": ["BUTTOCKS_EXPOSED"], "threshold": 0.0}}
        assert server.client.put("/v1/settings", json=strict).status_code == 200
        since = next(iter(events(server, 0)))[0] - 1
        for where in (
            "pictures/0.png",
            "steps/1/x0.png",
            "steps/1/tensors.bin",
            "steps/1/tensors.npz",
            "sprite/x0.webp",
            "trace.safetensors",
            "explain",
            "export/gif",
            "export/html",
            "export/zip",
        ):
            answer = server.client.get(f"/v1/runs/{free['id']}/{where}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "content_policy_violation"), where
        assert server.client.get(f"/v1/pictures/{free['pictures'][0]['seal']}.png").status_code == 403
        assert server.client.post("/v1/images/generations", json={"prompt": "bag", "model": "tiny"}).status_code == 403
        seen = []
        for event in events(server, since):
            seen.append(event)
            if event[1] == "run" and event[2]["state"] == "done" and event[2]["id"] != free["id"]:
                break
        assert all(data["frames"] == {} for _, kind, data in seen if kind == "step")
        loose = {"safety": {"kind": "nudenet", "threshold": 1.0}}
        assert server.client.put("/v1/settings", json=loose).status_code == 200
        assert server.client.get(f"/v1/runs/{free['id']}/steps/1/x0.png").status_code == 200


def photograph() -> bytes:
    """A harmless picture: a still life of plain shapes in soft light."""
    y, x = np.mgrid[0:320, 0:320] / 320
    picture = np.stack([0.6 + 0.3 * x, 0.7 - 0.2 * y, 0.5 + 0.2 * x * y], -1)
    for cx, cy, r, colour in ((0.35, 0.6, 0.18, (0.8, 0.2, 0.15)), (0.65, 0.62, 0.14, (0.3, 0.6, 0.2))):
        inside = ((x - cx) ** 2 + (y - cy) ** 2 < r**2)[..., None]
        shade = 1 - 1.5 * ((x - cx + 0.05) ** 2 + (y - cy + 0.05) ** 2)[..., None]
        picture = np.where(inside, np.array(colour) * shade, picture)
    out = io.BytesIO()
    Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real detector, with its own weights; what it is told to have found is added to what it finds."""
    pytest.importorskip("nudenet")
    safety._detector.cache_clear()
    real = safety._detector()
    also: list[dict[str, Any]] = []
    seen: list[tuple[int, ...]] = []
    looks = real.detect

    def detect(image: np.ndarray) -> list[dict[str, Any]]:
        seen.append(image.shape)
        return [*looks(image), *also]

    monkeypatch.setattr(real, "detect", detect)
    yield types.SimpleNamespace(real=real, also=also, seen=seen)
    safety._detector.cache_clear()


def test_the_real_detector_lets_a_still_life_pass(detector: Any) -> None:
    """And its own names for what it finds are the ones that the policy refuses by."""
    from nudenet import nudenet as package

    NudeNet().ready()
    check_picture(NudeNet(), photograph())
    check_picture(NudeNet(), png(128))  # 8 x 8, as small as a picture gets
    assert detector.seen == [(320, 320, 3), (8, 8, 3)]
    names = next(value for name, value in vars(package).items() if isinstance(value, list) and "BUTTOCKS_EXPOSED" in value)
    assert set(NudeNet().labels) <= set(names)


def test_what_the_real_detector_finds_is_refused_with_what_and_why(detector: Any, tmp_path: Path) -> None:
    models(tmp_path)
    with serving(tmp_path) as server:
        assert server.client.put("/v1/settings", json={"safety": "nudenet"}).status_code == 200
        shown = server.run(seed=1, steps=2)
        assert server.client.get(shown["pictures"][0]["url"]).status_code == 200
        assert (
            server.client.post("/v1/pictures", content=photograph(), headers={"content-type": "image/png"}).status_code == 200
        )
        detector.also.append({"class": "FEMALE_BREAST_COVERED", "score": 0.99, "box": [0, 0, 4, 4]})
        assert server.client.get(shown["pictures"][0]["url"]).status_code == 200  # no label that is refused
        detector.also.append({"class": "FEMALE_BREAST_EXPOSED", "score": 0.49, "box": [0, 0, 4, 4]})
        assert server.client.get(shown["pictures"][0]["url"]).status_code == 200  # not sure enough
        detector.also.append({"class": "FEMALE_BREAST_EXPOSED", "score": 0.87, "box": [0, 0, 4, 4]})
        for answer in (
            server.client.get(shown["pictures"][0]["url"]),
            server.client.post("/v1/pictures", content=photograph(), headers={"content-type": "image/png"}),
            server.client.post("/v1/images/generations", json={"prompt": "bag", "model": "tiny", "steps": 2}),
            server.client.post(
                "/sdapi/v1/txt2img", json={"prompt": "bag", "steps": 2, "override_settings": {"sd_model_checkpoint": "tiny"}}
            ),
            server.client.get(f"/v1/runs/{shown['id']}/export/html"),
        ):
            found = answer.json()["error"]
            assert (answer.status_code, found["code"]) == (403, "content_policy_violation")
            expected = "refused by the safety policy 'nudenet': female breast exposed (0.87 of 1, from 0.5 on)"
            assert found["message"] == expected


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_content_credentials_say_that_a_model_made_it_and_which(suffix: str, tmp_path: Path) -> None:
    c2pa = pytest.importorskip("c2pa")
    authority, certificate, key = signers(tmp_path)
    models(tmp_path / "data")
    with serving(tmp_path / "data", provenance={"certificate": certificate, "key": key}) as server:
        assert server.client.get("/v1/settings").json()["credentials"] is True
        run = server.run(seed=1, steps=2)
        where = f"/v1/runs/{run['id']}/pictures/0.{suffix}"
        plain, marked = (server.client.get(where + query).content for query in ("", "?credentials=true"))
    assert plain != marked
    assert (np.asarray(Image.open(io.BytesIO(plain))) == np.asarray(Image.open(io.BytesIO(marked)))).all()
    for name, data in (("plain", plain), ("marked", marked)):
        (tmp_path / f"{name}.{suffix}").write_bytes(data)
    own = note(tmp_path / f"marked.{suffix}")
    assert own is not None
    assert own == note(tmp_path / f"plain.{suffix}")
    settings = c2pa.Settings.from_dict({"trust": {"user_anchors": authority.read_text()}, "verify": {"verify_trust": True}})
    with c2pa.Context(settings) as context, c2pa.Reader(MIME[suffix], io.BytesIO(marked), context=context) as reader:
        told = json.loads(reader.json())
        assert reader.get_validation_state() == "Trusted", told.get("validation_results")
    manifest = told["manifests"][told["active_manifest"]]
    assert manifest["signature_info"]["common_name"] == "Signer of a test"
    assert manifest["title"] == f"{run['id']} 0"
    action = next(
        a for one in manifest["assertions"] if one["label"].startswith("c2pa.actions") for a in one["data"]["actions"]
    )
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", safety.MADE_BY_AI)
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"]["name"] == "Safelight"
    assert action["parameters"] == {"model": "tiny", "fingerprint": own.model.fingerprint}
    damaged = bytearray(marked)
    damaged[len(damaged) // 2] ^= 1
    try:
        with c2pa.Reader(MIME[suffix], io.BytesIO(bytes(damaged))) as reader:
            assert reader.get_validation_state() == "Invalid"
    except c2pa.C2paError:
        pass  # so damaged that nothing can be read of it


def test_a_certificate_that_cannot_sign_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    (tmp_path / "bad.pem").write_text("none")
    models(tmp_path / "data")
    with serving(tmp_path / "data", provenance={"certificate": tmp_path / "bad.pem", "key": tmp_path / "bad.pem"}) as server:
        run = server.run(seed=1, steps=2)
        answer = server.client.get(f"/v1/runs/{run['id']}/pictures/0.png?credentials=true")
    assert answer.status_code == 422
    assert "could not be signed" in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text


def signers(folder: Path) -> tuple[Path, Path, Path]:
    """(authority, certificate with its chain, key), PEM files: a signer's certificate as C2PA wants it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    def name(text: str) -> x509.Name:
        parts = ((x509.NameOID.ORGANIZATION_NAME, "Test"), (x509.NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    now = datetime.datetime.now(datetime.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def built(subject: str, public: Any, sign: bool) -> x509.Certificate:
        ca = subject.startswith("Authority")
        made = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Authority of a test"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    sign, False, False, False, False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False
                ),
                critical=True,
            )
        )
        if not ca:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return made.sign(authority_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    root = built("Authority of a test", authority_key.public_key(), False).public_bytes(pem)
    leaf = built("Signer of a test", key.public_key(), True).public_bytes(pem)
    files = folder / "authority.pem", folder / "chain.pem", folder / "signer.pem"
    files[0].write_bytes(root)
    files[1].write_bytes(leaf + root)
    files[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


def test_content_credentials_need_a_certificate(tmp_path: Path) -> None:
    models(tmp_path)
    with serving(tmp_path, devices=()) as server:
        data = server.client.post("/v1/runs/import", files={"files": ("a.png", png(3), "image/png")}).json()
        if not data["runs"]:
            pytest.skip(f"nothing was imported: {data['refused']}")
        answer = server.client.get(f"{data['runs'][0]['pictures'][0]['url']}?credentials=true")
        assert answer.status_code == 422
        assert "--c2pa-cert" in answer.json()["error"]["message"]
