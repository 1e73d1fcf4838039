"""The usual way: what the reports on colorizers do, and most tutorials.

PIL → scikit-image's `rgb2lab` for each photograph in `__getitem__`, in a DataLoader; fastai's `DynamicUnet` as it comes, in float32 with channels first;
a photograph at a time through the network, and scikit-image back to RGB at full size.
"""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


class Photographs(torch.utils.data.Dataset):
    "L and ab of a random crop, from the file, each time anew"
    def __init__(self, files, size):
        from torchvision.transforms import v2
        self.files, self.tfm = files, v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        from skimage.color import rgb2lab
        rgb = np.array(self.tfm(Image.open(self.files[i]).convert("RGB")))
        lab = torch.tensor(rgb2lab(rgb), dtype=torch.float32).permute(2, 0, 1)
        return lab[:1]/50 - 1, lab[1:]/110


def network(size=256):
    "fastai's U-Net on torchvision's ResNet18, for one channel in and two out"
    from fastai.vision.learner import create_body
    from fastai.vision.models.unet import DynamicUnet
    from torchvision.models import resnet18
    return DynamicUnet(create_body(resnet18(), n_in=1, pretrained=False, cut=-2), 2, (size, size))


def l1_step(net, opt, L, ab):
    loss = F.l1_loss(net(L), ab)
    opt.zero_grad(); loss.backward(); opt.step()
    return loss.item()


def adversarial_step(net, critic, opt_g, opt_d, L, ab, weight=100.):
    fake = net(L)
    for p in critic.parameters(): p.requires_grad_(True)
    real, made = critic(torch.cat([L, ab], 1)), critic(torch.cat([L, fake.detach()], 1))
    loss = (F.binary_cross_entropy_with_logits(real, torch.ones_like(real)) + F.binary_cross_entropy_with_logits(made, torch.zeros_like(made)))/2
    opt_d.zero_grad(); loss.backward(); opt_d.step()
    for p in critic.parameters(): p.requires_grad_(False)
    verdict = critic(torch.cat([L, fake], 1))
    loss = F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict)) + weight*F.l1_loss(fake, ab)
    opt_g.zero_grad(); loss.backward(); opt_g.step()
    return loss.item()


@torch.no_grad()
def colours(net, squares):
    "Photographs (uint8 arrays of one size), one after the other, in colour"
    from skimage.color import lab2rgb, rgb2lab
    made = []
    for rgb in squares:
        lab = rgb2lab(rgb)
        ab = net(torch.tensor(lab[None, None, ..., 0]/50 - 1, dtype=torch.float32))[0].permute(1, 2, 0).numpy()*110
        made.append((255*lab2rgb(np.dstack([lab[..., :1], ab]))).astype(np.uint8))
    return made


@torch.no_grad()
def colorize(net, source, target, size=256):
    "From file to file, at full size"
    from skimage.color import lab2rgb, rgb2lab
    from skimage.transform import resize
    photo = Image.open(source).convert("RGB")
    lab = rgb2lab(np.array(photo))
    small = rgb2lab(np.array(photo.resize((size, size), Image.Resampling.BICUBIC)))
    ab = net(torch.tensor(small[None, None, ..., 0]/50 - 1, dtype=torch.float32))[0].permute(1, 2, 0).numpy()*110
    Image.fromarray((255*lab2rgb(np.dstack([lab[..., :1], resize(ab, lab.shape[:2], order=3)]))).astype(np.uint8)).save(target, quality=95)


if __name__ == "__main__": # python bench/usual.py WEIGHTS TARGET PHOTO…
    import sys
    from pathlib import Path
    net = network().eval()
    net.load_state_dict(torch.load(sys.argv[1], weights_only=True))
    for photo in sys.argv[3:]: colorize(net, photo, Path(sys.argv[2])/f"{Path(photo).stem}-color.jpg")
