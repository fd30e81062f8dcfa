"""A small model of each family of other people's packages, with random weights."""

import os
from copy import deepcopy

import pytest
import torch

TIMM = """
beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny
convmixer_768_32 test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s
cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 efficientnet_lite0 efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s
lowformer_b0 test_mambaout maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050
mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small test_nfnet pit_ti_224 pvt_v2_b0 rdnet_tiny
regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet18 resnetv2_18
selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_patch16_224 tresnet_m twins_svt_small vgg11_bn visformer_tiny test_vit vit_tiny_r_s16_p8_224
test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
legacy_xception xception41p xcit_nano_12_p8_224 mixer_s32_224 resmlp_12_224
lambda_resnet26t efficientnet_b0 resnext50_32x4d seresnet50 resnetblur50 ecaresnet50t
mnasnet_small semnasnet_075 fbnetc_100 spnasnet_100 tinynet_e mixnet_s mobilenetv2_050
mobilenetv4_conv_small gernet_s repvgg_a0 nf_resnet26 dm_nfnet_f0 ghostnetv2_100
cspresnet50 cspdarknet53 darknet53 vovnet39a tf_efficientnetv2_b0 crossvit_9_240 convnextv2_atto
coatnet_pico_rw_224 mobilevitv2_050
""".split()  # noqa: SIM905
SMP = """
DPT DeepLabV3 DeepLabV3Plus FPN Linknet MAnet PAN PSPNet Segformer UPerNet Unet UnetPlusPlus
""".split()  # noqa: SIM905
MONAI = {
    "AHNet": dict(spatial_dims=2, in_channels=1, out_channels=2, size=(128, 160)),
    "AttentionUnet": dict(
        spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2)
    ),
    "AutoEncoder": dict(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), strides=(2, 2)
    ),
    "AutoencoderKL": dict(
        spatial_dims=2, channels=(32, 32), num_res_blocks=(1, 1), attention_levels=(False, False)
    ),
    "BasicUNet": dict(spatial_dims=3, features=(8, 8, 16, 16, 32, 8), size=(32, 32, 48)),
    "BasicUNetPlusPlus": dict(spatial_dims=2, features=(8, 8, 16, 16, 32, 8)),
    "Critic": dict(in_shape=(1, 64, 96), channels=(4, 8), strides=(2, 2), num_res_units=2),
    "DenseNet121": dict(spatial_dims=2, in_channels=1, out_channels=2),
    "DynUNet": dict(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
    ),
    "EfficientNetBN": dict(
        model_name="efficientnet-b0", spatial_dims=2, in_channels=1, pretrained=False
    ),
    "FlexibleUNet": dict(in_channels=1, out_channels=2, backbone="efficientnet-b0"),
    "HighResNet": dict(spatial_dims=3, size=(32, 32, 48)),
    "MedNeXtS": dict(spatial_dims=2, in_channels=1, out_channels=2),
    "PatchDiscriminator": dict(spatial_dims=2, channels=8, in_channels=1),
    "Quicknat": dict(),
    "RegUNet": dict(spatial_dims=2, in_channels=1, num_channel_initial=4, depth=2),
    "LocalNet": dict(
        spatial_dims=2,
        in_channels=1,
        num_channel_initial=4,
        extract_levels=(0, 1),
        out_kernel_initializer="kaiming_uniform",
        out_activation=None,
        out_channels=2,
    ),
    "ResNet": dict(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 16, 32, 64],
        spatial_dims=3,
        n_input_channels=1,
        size=(64, 64, 96),
    ),
    "SEResNet50": dict(spatial_dims=2, in_channels=1),
    "SegResNet": dict(spatial_dims=3, size=(32, 32, 48)),
    "SegResNetDS": dict(spatial_dims=2),
    "SwinUNETR": dict(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2),
    "UNETR": dict(
        in_channels=1,
        out_channels=2,
        img_size=(64, 96),
        spatial_dims=2,
        hidden_size=48,
        mlp_dim=96,
        num_heads=4,
    ),
    "UNet": dict(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=2,
        act="RELU",
    ),
    "VNet": dict(size=(32, 32, 48)),
    "VQVAE": dict(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(16, 16),
        num_res_layers=1,
        num_res_channels=(16, 16),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=8,
        embedding_dim=4,
    ),
    "ViT": dict(
        in_channels=1,
        img_size=(64, 96),
        patch_size=(16, 16),
        spatial_dims=2,
        hidden_size=48,
        mlp_dim=96,
        num_layers=2,
        num_heads=4,
    ),
    "ViTAutoEnc": dict(
        in_channels=1,
        img_size=(64, 96),
        patch_size=(16, 16),
        spatial_dims=2,
        hidden_size=48,
        mlp_dim=96,
        num_layers=2,
        num_heads=4,
    ),
    "SENet154": dict(spatial_dims=2, in_channels=1),
}
# Their size is not in their configuration, but in their code.
OF_ONE_SIZE = {"halonet_h1"}
KERAS = {
    "ConvNeXtTiny": {}, "DenseNet121": {}, "EfficientNetB0": {}, "EfficientNetV2B0": {},
    "InceptionResNetV2": {}, "InceptionV3": {}, "MobileNet": dict(alpha=0.25),
    "MobileNetV2": dict(alpha=0.35), "MobileNetV3Small": {}, "ResNet50": {},
    "ResNet50V2": {}, "VGG16": {}, "Xception": {},
}  # fmt: skip


def package(name):
    return pytest.importorskip(name, reason=f"needs {name}, of the extra [zoo]")


def timm_model(name):
    model = package("timm").create_model(name).eval()
    size = model.pretrained_cfg["input_size"][1:]
    if (
        not model.pretrained_cfg.get("fixed_input_size")
        and name not in OF_ONE_SIZE
        and size[0] > 200
    ):
        size = (160, 224) if "inception" in name else (128, 192)
    return model, torch.randn(2, 3, *size), {}


def smp_model(name):
    encoder, size = ("tu-test_vit", (160, 160)) if name == "DPT" else ("resnet18", (64, 96))
    size = (128, 160) if name == "PAN" else size
    models = package("segmentation_models_pytorch")
    model = getattr(models, name)(encoder_name=encoder, encoder_weights=None).eval()
    return model, torch.randn(2, 3, *size), {}


def monai_model(name):
    options = dict(MONAI[name])
    size = options.pop("size", (64, 96))
    model = getattr(package("monai.networks.nets"), name)(**options).eval()
    channels = options.get("in_channels") or options.get("n_input_channels") or 1
    return model, torch.randn(2, channels, *size), {}


def braindecode_model(name):
    """With the shape of input that the package's own tests take."""
    models, util = package("braindecode.models"), package("braindecode.models.util")
    needed, given = next(
        (needed, given) for n, needed, given in util.models_mandatory_parameters if n == name
    )
    given = given() if callable(given) else given or {}
    signal = deepcopy(util.default_signal_params) | given
    if "chs_info" in given:
        signal["n_chans"] = len(given["chs_info"])
    model = getattr(models, name)(**{key: signal[key] for key in needed}).eval()
    x = torch.randn(2, signal["n_chans"], signal["n_times"])
    return model, x, {"fs": float(signal["sfreq"])}


def keras_model(name):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = package("keras")
    if keras.config.backend() != "torch":
        pytest.skip(f"Keras's backend is {keras.config.backend()}, not torch")
    size = (96, 96)
    options = {"weights": None, "input_shape": (*size, 3), **KERAS[name]}
    model = getattr(keras.applications, name)(**options)
    return model, torch.randn(2, *size, 3), {}


BRAINDECODE = """
ATCNet BDTCN Deep4Net DeepSleepNet EEGConformer EEGInceptionERP EEGInceptionMI EEGITNet EEGNet EEGPT
ShallowFBCSPNet SleepStagerBlanco2020 SleepStagerChambon2018 AttnSleep TIDNet USleep BIOT
AttentionBaseNet Labram EEGSimpleConv SPARCNet ContraWR EEGNeX EEGSym TSception EEGTCNet SyncNet
MSVTNet EEGMiner CTNet TCFormer SincShallowNet SCCNet SignalJEPA SignalJEPA_Contextual
SignalJEPA_PostLocal SignalJEPA_PreLocal FBCNet FBMSNet EMG2QwertyNet VEMG2Pose NeuroPose
SensingDynamics FBLightConvNet IFNet PBT SSTDPN BrainModule BENDR LUNA MEDFormer MVPFormer CBraMod
EEGDINO MetaNeuromotorHand STEEGFormer CodeBrain
""".split()  # noqa: SIM905
# Where the rate is said to be unknown, rightly, although it can be measured.
RATE_UNKNOWN = {
    "smp:DPT": "tokens become an image again",
    "timm:edgenext_xx_small": "attention between channels, and tokens become an image again",
    "timm:xcit_nano_12_p8_224": "attention between channels, and tokens become an image again",
    "timm:halonet_h1": "overlapping blocks of an image, and an image of blocks",
    "timm:mobilevitv2_050": "blocks of an image by F.unfold, and an image by F.fold",
    "braindecode:ContraWR": "torch.stft",
    "braindecode:EMG2QwertyNet": "torch.stft",
    "braindecode:MetaNeuromotorHand": "torch.stft",
    "braindecode:EEGSimpleConv": "resampling by the phases of a strided convolution",
    "braindecode:FBCNet": "a recursive filter",
    "braindecode:FBMSNet": "a recursive filter",
    "braindecode:FBLightConvNet": "a recursive filter",
    "braindecode:IFNet": "a recursive filter",
    "braindecode:LUNA": "time in the batch, and out of it",
    "braindecode:STEEGFormer": "electrodes and time in one axis",
}
BUILDERS = {
    "timm": (timm_model, TIMM),
    "smp": (smp_model, SMP),
    "monai": (monai_model, MONAI),
    "keras": (keras_model, KERAS),
    "braindecode": (braindecode_model, BRAINDECODE),
}
NAMES = [f"{package}:{name}" for package, (_, names) in BUILDERS.items() for name in names]


def build(name):
    """Model, input and the options of `record`."""
    package, _, model = name.partition(":")
    return BUILDERS[package][0](model)


def axes_of_time_or_space(name, x):
    """Axes of an input that are time or space: of video and volumes the last two."""
    if name.startswith("keras"):
        return (1, 2)
    return (x.ndim - 1,) if x.ndim == 3 else (x.ndim - 2, x.ndim - 1)
