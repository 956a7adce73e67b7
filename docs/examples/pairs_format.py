"""An export format of one's own: a folder a shard, with an mp4 and a txt for each clip."""

from curate.plugin import Field, Section
from pipelines.formats.format import Format, ShardFile


class PairsOptions(Section):
    caption: str = Field("caption_merged", description="column that becomes the text file")


class Pairs(Format):
    name = "pairs"
    description = "an mp4 and a txt for each clip"
    needs = ("caption_merged",)
    Options = PairsOptions

    def open(self, path, schema):
        return PairsShard(path, self.options.caption)


class PairsShard(ShardFile):
    def __init__(self, path, caption):
        self.path, self.caption = path, caption
        path.mkdir()

    def add(self, row, clip):
        (self.path / f"{row['clip_id']}.mp4").write_bytes(clip)
        (self.path / f"{row['clip_id']}.txt").write_text(row[self.caption] or "")


PARTS = [Pairs]
