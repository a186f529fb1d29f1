"""Efficient self-supervised video learning on motion-rich tokens, as Hugging Face Transformers models."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification

from .configuration_videoms import VideoMSConfig
from .modeling_videoms import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel


AutoConfig.register("videoms", VideoMSConfig, exist_ok=True)
AutoModel.register(VideoMSConfig, VideoMSModel, exist_ok=True)
AutoModelForPreTraining.register(VideoMSConfig, VideoMSForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(VideoMSConfig, VideoMSForVideoClassification, exist_ok=True)
