"The sample photographs: the folder and its table of licences agree, and every picture is fit to train on."
import csv, hashlib
from pathlib import Path
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT/'data'/'photos'
FILES = sorted(p.relative_to(PHOTOS).as_posix() for p in PHOTOS.glob('*/*'))
LICENCES = {'CC0-1.0', 'public-domain', 'CC-BY-2.0', 'CC-BY-3.0', 'CC-BY-4.0', 'CC-BY-SA-3.0', 'CC-BY-SA-4.0'}
COLUMNS = ['file', 'title', 'author', 'licence', 'source', 'original', 'note']
SUBJECTS = {'animal', 'city', 'food', 'landscape', 'person', 'plant', 'room', 'thing'}


def read_table(path):
    with open(path, encoding='utf-8', newline='') as f: return list(csv.DictReader(f))


@pytest.fixture(scope='module')
def rows(): return read_table(PHOTOS/'LICENSES.csv')


def test_table_lists_every_file_once(rows):
    assert sorted(r['file'] for r in rows) == FILES


def test_table_is_filled(rows):
    for r in rows:
        assert list(r) == COLUMNS
        assert all(r[k].strip() for k in COLUMNS[:-1]), r
        assert r['licence'] in LICENCES, r


def test_folder_is_what_the_table_of_the_script_asks_for(rows):
    wanted, same = read_table(ROOT/'tools'/'sample_photos.csv'), COLUMNS[:4]
    assert [[w[k] for k in same] for w in wanted] == [[r[k] for k in same] for r in rows]


def test_number_and_size():
    assert 80 <= len(FILES) <= 200
    assert sum((PHOTOS/f).stat().st_size for f in FILES) <= 15e6


def test_split_holds_every_subject_and_no_picture_twice():
    folders = {'train': [], 'valid': []}
    for f in FILES: folders[f.split('/')[0]].append(f)
    assert 0.15 < len(folders['valid'])/len(FILES) < 0.25
    for files in folders.values(): assert {f.split('/')[1].split('-')[0] for f in files} == SUBJECTS
    assert len({f.split('/')[1] for f in FILES}) == len(FILES)
    assert len({hashlib.sha256((PHOTOS/f).read_bytes()).digest() for f in FILES}) == len(FILES)


@pytest.mark.parametrize('file', FILES)
def test_picture(file):
    with Image.open(PHOTOS/file) as im:
        assert im.format == 'JPEG' and im.mode == 'RGB'
        assert 256 <= min(im.size) <= 512 and max(im.size)/min(im.size) <= 2.2
        assert not im.getexif() and not {'exif', 'icc_profile', 'comment', 'xmp', 'photoshop'} & set(im.info)
        r, g, b = np.moveaxis(np.asarray(im).astype(int), -1, 0)
    assert np.mean([abs(r - g).mean(), abs(g - b).mean(), abs(b - r).mean()]) > 8, 'nearly grey'
