"""The judge of faces: a foreign graph on its own part of the picture."""

from __future__ import annotations

import torch

from fill import inp
from voicestyle.evaluate import judge
from voicestyle.image import crop_resize


def test_the_face_judge_sees_its_part_in_bytes(monkeypatch) -> None:
    seen = []

    def graph(path):
        assert path == "net.json"
        return lambda image: seen.append(image) or image.mean((2, 3))

    monkeypatch.setattr(judge, "Graph", graph)
    image = 2 * inp("face", (2, 3, 64, 64), lo=-1)
    features = judge.FaceJudge("net.json")(image)
    expected = (crop_resize(image.clamp(-1, 1), (0.126, 0.121, 0.89, 0.885), 112) + 1) * 127.5
    assert features.shape == (2, 3) and torch.equal(seen[0], expected)
    assert seen[0].min() >= 0 and seen[0].max() <= 255
