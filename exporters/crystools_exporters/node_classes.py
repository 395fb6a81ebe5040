"""The classes of nodes that metrics tell apart: a closed set, whatever other node packs there are."""

from __future__ import annotations

from typing import Final

OTHER: Final = "other"
"""Stands for every class that is not known here."""


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(","))


OURS: Final = _names("""
    CogVideoXTextEncoder, CogVideoXTPUSampler, CogVideoXTPUVAEDecoder, Wan21TextEncoder, Wan21TPUSampler,
    Wan21TPUVAEDecoder, Wan22T2VTextEncoder, Wan22T2VTPUSampler, Wan22T2VTPUVAEDecoder,
    Wan22I2VImageEncoder, Wan22I2VTextEncoder, Wan22I2VTPUSampler, Wan22I2VTPUVAEDecoder,
    FluxTPUTextEncoder, FluxTPUSampler, FluxTPUVAEDecoder, Flux2TextEncoder, Flux2TPUSampler,
    Flux2TPUVAEDecoder, CogVideoXTPUPipeline, Wan21TPUPipeline, Wan22T2VTPUPipeline, Wan22I2VTPUPipeline,
    Flux2TPUPipeline, TPULora, TPUTimingReport, TPUTimingPlot
""")

COMFYUI: Final = _names("""
    APG, AddNoise, AlignYourStepsScheduler, AudioAdjustVolume, AudioConcat, AudioEncoderEncode,
    AudioEncoderLoader, AudioMerge, BasicGuider, BasicScheduler, BetaSamplingScheduler, CFGGuider,
    CFGNorm, CFGZeroStar, CLIPAttentionMultiply, CLIPLoader, CLIPMergeAdd, CLIPMergeSimple,
    CLIPMergeSubtract, CLIPSave, CLIPSetLastLayer, CLIPTextEncode, CLIPTextEncodeControlnet,
    CLIPTextEncodeFlux, CLIPTextEncodeHiDream, CLIPTextEncodeHunyuanDiT, CLIPTextEncodeLumina2,
    CLIPTextEncodePixArtAlpha, CLIPTextEncodeSD3, CLIPTextEncodeSDXL, CLIPTextEncodeSDXLRefiner,
    CLIPVisionEncode, CLIPVisionLoader, Canny, CaseConverter, CheckpointLoader, CheckpointLoaderSimple,
    CheckpointSave, ChromaRadianceOptions, CombineHooks2, CombineHooks4, CombineHooks8,
    ConditioningAverage, ConditioningCombine, ConditioningConcat, ConditioningSetArea,
    ConditioningSetAreaPercentage, ConditioningSetAreaPercentageVideo, ConditioningSetAreaStrength,
    ConditioningSetDefaultCombine, ConditioningSetMask, ConditioningSetProperties,
    ConditioningSetPropertiesAndCombine, ConditioningSetTimestepRange, ConditioningStableAudio,
    ConditioningTimestepsRange, ConditioningZeroOut, ContextWindowsManual, ControlNetApply,
    ControlNetApplyAdvanced, ControlNetApplySD3, ControlNetInpaintingAliMamaApply, ControlNetLoader,
    CosmosImageToVideoLatent, CosmosPredict2ImageToVideoLatent, CreateHookKeyframe,
    CreateHookKeyframesFromFloats, CreateHookKeyframesInterpolated, CreateHookLora,
    CreateHookLoraModelOnly, CreateHookModelAsLora, CreateHookModelAsLoraModelOnly, CreateVideo, CropMask,
    DiffControlNetLoader, DifferentialDiffusion, DiffusersLoader, DisableNoise, DualCFGGuider,
    DualCLIPLoader, EasyCache, EmptyAceStepLatentAudio, EmptyAudio, EmptyChromaRadianceLatentImage,
    EmptyCosmosLatentVideo, EmptyHunyuanImageLatent, EmptyHunyuanLatentVideo, EmptyImage,
    EmptyLTXVLatentVideo, EmptyLatentAudio, EmptyLatentHunyuan3Dv2, EmptyLatentImage,
    EmptyMochiLatentVideo, EmptySD3LatentImage, Epsilon Scaling, ExponentialScheduler,
    ExtendIntermediateSigmas, FeatherMask, FlipSigmas, FluxDisableGuidance, FluxGuidance,
    FluxKontextImageScale, FluxKontextMultiReferenceLatentMethod, FreSca, FreeU, FreeU_V2, GITSScheduler,
    GLIGENLoader, GLIGENTextBoxApply, GetImageSize, GetVideoComponents, GrowMask, Hunyuan3Dv2Conditioning,
    Hunyuan3Dv2ConditioningMultiView, HunyuanImageToVideo, HunyuanRefinerLatent, HyperTile,
    HypernetworkLoader, ImageAddNoise, ImageBatch, ImageBlend, ImageBlur, ImageColorToMask,
    ImageCompositeMasked, ImageCrop, ImageFlip, ImageFromBatch, ImageInvert, ImageOnlyCheckpointLoader,
    ImageOnlyCheckpointSave, ImagePadForOutpaint, ImageQuantize, ImageRGBToYUV, ImageRotate, ImageScale,
    ImageScaleBy, ImageScaleToMaxDimension, ImageScaleToTotalPixels, ImageSharpen, ImageStitch,
    ImageToMask, ImageUpscaleWithModel, ImageYUVToRGB, InpaintModelConditioning,
    InstructPixToPixConditioning, InvertMask, JoinImageWithAlpha, KSampler, KSamplerAdvanced,
    KSamplerSelect, KarrasScheduler, LTXVAddGuide, LTXVConditioning, LTXVCropGuides, LTXVImgToVideo,
    LTXVPreprocess, LTXVScheduler, LaplaceScheduler, LatentAdd, LatentApplyOperation,
    LatentApplyOperationCFG, LatentBatch, LatentBatchSeedBehavior, LatentBlend, LatentComposite,
    LatentCompositeMasked, LatentConcat, LatentCrop, LatentCut, LatentFlip, LatentFromBatch,
    LatentInterpolate, LatentMultiply, LatentOperationSharpen, LatentOperationTonemapReinhard,
    LatentRotate, LatentSubtract, LatentUpscale, LatentUpscaleBy, LazyCache, Load3D, Load3DAnimation,
    LoadAudio, LoadImage, LoadImageMask, LoadImageOutput, LoadImageSetFromFolderNode,
    LoadImageTextSetFromFolderNode, LoadLatent, LoadVideo, LoraLoader, LoraLoaderModelOnly,
    LoraModelLoader, LoraSave, LossGraphNode, LotusConditioning, Mahiro, MaskComposite, MaskPreview,
    MaskToImage, ModelComputeDtype, ModelMergeAdd, ModelMergeAuraflow, ModelMergeBlocks,
    ModelMergeCosmos14B, ModelMergeCosmos7B, ModelMergeCosmosPredict2_14B, ModelMergeCosmosPredict2_2B,
    ModelMergeFlux1, ModelMergeLTXV, ModelMergeMochiPreview, ModelMergeQwenImage, ModelMergeSD1,
    ModelMergeSD2, ModelMergeSD35_Large, ModelMergeSD3_2B, ModelMergeSDXL, ModelMergeSimple,
    ModelMergeSubtract, ModelMergeWAN2_1, ModelPatchLoader, ModelSamplingAuraFlow,
    ModelSamplingContinuousEDM, ModelSamplingContinuousV, ModelSamplingDiscrete, ModelSamplingFlux,
    ModelSamplingLTXV, ModelSamplingSD3, ModelSamplingStableCascade, ModelSave, Morphology,
    OptimalStepsScheduler, PairConditioningCombine, PairConditioningSetDefaultCombine,
    PairConditioningSetProperties, PairConditioningSetPropertiesAndCombine, PatchModelAddDownscale,
    PerpNeg, PerpNegGuider, PerturbedAttentionGuidance, PhotoMakerEncode, PhotoMakerLoader,
    PolyexponentialScheduler, PorterDuffImageComposite, Preview3D, Preview3DAnimation, PreviewAny,
    PreviewAudio, PreviewImage, PrimitiveBoolean, PrimitiveFloat, PrimitiveInt, PrimitiveString,
    PrimitiveStringMultiline, QuadrupleCLIPLoader, QwenImageDiffsynthControlnet, RandomNoise,
    RebatchImages, RebatchLatents, RecordAudio, ReferenceLatent, RegexExtract, RegexMatch, RegexReplace,
    RenormCFG, RepeatImageBatch, RepeatLatentBatch, RescaleCFG, ResizeAndPadImage, SDTurboScheduler,
    SD_4XUpscale_Conditioning, SV3D_Conditioning, SVD_img2vid_Conditioning, SamplerCustom,
    SamplerCustomAdvanced, SamplerDPMAdaptative, SamplerDPMPP_2M_SDE, SamplerDPMPP_2S_Ancestral,
    SamplerDPMPP_3M_SDE, SamplerDPMPP_SDE, SamplerER_SDE, SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP, SamplerEulerCFGpp, SamplerLCMUpscale, SamplerLMS, SamplerSASolver,
    SamplingPercentToSigma, SaveAnimatedPNG, SaveAnimatedWEBP, SaveAudio, SaveAudioMP3, SaveAudioOpus,
    SaveGLB, SaveImage, SaveLatent, SaveLoRANode, SaveSVGNode, SaveVideo, SaveWEBM, SelfAttentionGuidance,
    SetClipHooks, SetFirstSigma, SetHookKeyframes, SetLatentNoiseMask, SetUnionControlNetType,
    SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple, SkipLayerGuidanceSD3, SolidMask, SplitAudioChannels,
    SplitImageWithAlpha, SplitSigmas, SplitSigmasDenoise, StableCascade_EmptyLatentImage,
    StableCascade_StageB_Conditioning, StableCascade_StageC_VAEEncode,
    StableCascade_SuperResolutionControlnet, StableZero123_Conditioning,
    StableZero123_Conditioning_Batched, StringCompare, StringConcatenate, StringContains, StringLength,
    StringReplace, StringSubstring, StringTrim, StyleModelApply, StyleModelLoader, T5TokenizerOptions,
    TCFG, TextEncodeAceStepAudio, TextEncodeHunyuanVideo_ImageToVideo, TextEncodeQwenImageEdit,
    TextEncodeQwenImageEditPlus, ThresholdMask, TomePatchModel, TorchCompileModel, TrainLoraNode,
    TrimAudioDuration, TrimVideoLatent, TripleCLIPLoader, UNETLoader, UNetCrossAttentionMultiply,
    UNetSelfAttentionMultiply, UNetTemporalAttentionMultiply, USOStyleReference, UpscaleModelLoader,
    VAEDecode, VAEDecodeAudio, VAEDecodeHunyuan3D, VAEDecodeTiled, VAEEncode, VAEEncodeAudio,
    VAEEncodeForInpaint, VAEEncodeTiled, VAELoader, VAESave, VPScheduler, VideoLinearCFGGuidance,
    VideoTriangleCFGGuidance, VoxelToMesh, VoxelToMeshBasic, Wan22FunControlToVideo,
    Wan22ImageToVideoLatent, WanAnimateToVideo, WanCameraEmbedding, WanCameraImageToVideo,
    WanContextWindowsManual, WanFirstLastFrameToVideo, WanFunControlToVideo, WanFunInpaintToVideo,
    WanHuMoImageToVideo, WanImageToVideo, WanPhantomSubjectToVideo, WanSoundImageToVideo,
    WanSoundImageToVideoExtend, WanTrackToVideo, WanVaceToVideo, WebcamCapture, unCLIPCheckpointLoader,
    unCLIPConditioning
""")
"""Those of ComfyUI 0.3.64 itself: its `nodes.py` and `comfy_extras`."""


def known_class(class_type: str | None) -> str:
    """The class, or `other`."""
    return class_type if class_type in OURS or class_type in COMFYUI else OTHER
