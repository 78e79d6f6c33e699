"""The words of the page."""

INTRODUCTION = """
# What does the network look at?
Self-supervised vision transformers side by side: SynCo-v2, MoBY, BYOL, and any other from the Hub.
"""

UNTRAINED_NOTICE = (
    "**No checkpoint is installed here.** The model below is *untrained*: its weights are random, so its maps mean "
    "nothing. To get a trained one, run `synco-hub demo` (minutes on two CPU cores) and start `synco-hub space` "
    "again, or type a public Hub id such as `facebook/dino-vits16`."
)

ABOUT = """
### Method
**SynCo-v2** pretrains vision transformers without labels: an online network learns to find, among the target
network's outputs, the one that shows the same picture. Beside a queue of real negatives it meets six kinds of
*synthetic hard negatives*, made from those it confuses most easily. **MoBY** is the same without synthetic negatives,
**BYOL** without any negatives.

### What the maps mean
An attention map shows where the last block of a vision transformer reads from; it is no proof of what the network
*uses*. Grad-CAM and saliency show what moves one number: the score of the predicted class where the checkpoint has a
classifier, else the norm of its feature; the caption says which. Every map is scaled to its own maximum, so compare
shapes between models, not brightness.

### Limits
The example pictures are fractals drawn by this project's own code. Small checkpoints are trained on such fractals at
32 pixels and know nothing of photographs. Models trained on web pictures carry the biases of these pictures.

### Your pictures
They are read in memory and in a temporary folder of this app, and deleted after ten minutes; nothing is kept or sent
on. Uploads end at 20 MB.

### Licence
This app and the checkpoints that the project trains itself: Apache-2.0. The authors' released checkpoints: their
LICENSE file says MIT, their README CC-BY-NC-4.0. Models you name by Hub id: see their cards.
"""
