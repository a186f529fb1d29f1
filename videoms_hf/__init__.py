"""Efficient self-supervised video learning on motion-rich tokens, as Hugging Face Transformers models."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from .configuration_videoms import VideoMSConfig
from .decoding_videoms import VideoDecodeError
from .modeling_videoms import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from .readers import open_video
from .video_processing_videoms import VideoMSVideoProcessor


# Found by the Auto classes where this package is imported ...
AutoConfig.register("videoms", VideoMSConfig, exist_ok=True)
AutoModel.register(VideoMSConfig, VideoMSModel, exist_ok=True)
AutoModelForPreTraining.register(VideoMSConfig, VideoMSForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(VideoMSConfig, VideoMSForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(VideoMSConfig, VideoMSVideoProcessor, exist_ok=True)
# VideoMAE's tutorials load these two; both give the video processor.
AutoImageProcessor.register(VideoMSConfig, fast_image_processor_class=VideoMSVideoProcessor, exist_ok=True)
AutoFeatureExtractor.register(VideoMSConfig, VideoMSVideoProcessor, exist_ok=True)

# ... and saved with their code, for where it is not (trust_remote_code=True).
VideoMSConfig.register_for_auto_class()
VideoMSModel.register_for_auto_class("AutoModel")
VideoMSForPreTraining.register_for_auto_class("AutoModelForPreTraining")
VideoMSForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
VideoMSVideoProcessor.register_for_auto_class()


__all__ = [
    "VideoDecodeError",
    "VideoMSConfig",
    "VideoMSForPreTraining",
    "VideoMSForVideoClassification",
    "VideoMSModel",
    "VideoMSVideoProcessor",
    "open_video",
]
