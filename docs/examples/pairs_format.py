"""An export format of one's own: an mp4 and a caption for each clip, in a folder for each shard."""

from curate.plugin import Field, Section
from pipelines.formats.format import Format, ShardFile


class PairsOptions(Section):
    prefix: str = Field("", description="begins every caption")


class Pairs(Format):
    name = "pairs"
    description = "folders with CLIP.mp4 and CLIP.txt, its caption"
    needs = ("caption_merged",)
    Options = PairsOptions

    def open(self, path, schema):
        return PairsShard(path, self.options.prefix)

    def loading(self):
        return "Read `data/*/CLIP.mp4`, and its caption in `CLIP.txt` beside it.\n"


class PairsShard(ShardFile):
    def __init__(self, path, prefix):
        self.path, self.prefix = path, prefix
        path.mkdir()

    def add(self, row, clip):
        (self.path / f"{row['clip_id']}.mp4").write_bytes(clip)
        (self.path / f"{row['clip_id']}.txt").write_text(self.prefix + (row["caption_merged"] or ""))


PARTS = [Pairs]
