"""The frozen 2D network: depth maps in, patch features and saliency out (section 3.2).

Networks come from open_clip and timm by name; their own resolution, patch grid, mean and standard
deviation come with them.

| network | features | saliency (`saliency_kind`) |
| --- | --- | --- |
| CLIP ViT | patch tokens after the last block, `ln_post` and projection | `class-attention` |
| CLIP ResNet | last map through the attention pool's value and output | `pool-attention` |
| timm ViT | patch tokens after the last block and norm | `class-attention` |
| other timm networks, and ViTs without class token | last map | `activation` |

`class-attention`: attention of the class token to the patches in the last block, mean over heads;
sums to less than 1, the rest lies on the class token itself and on registers. `pool-attention`:
the same of the attention pool's query, the mean feature. `activation`: mean over channels of the
squared features, divided by its sum over the patches.
"""

from i2pmae.image_model.loading import load_image_model
from i2pmae.image_model.network import ImageModel, ImageModelInfo

__all__ = ["ImageModel", "ImageModelInfo", "load_image_model"]
