"""Why clips were dropped, asked of the Parquet files without Winnow: python query.py out/annotated"""

import sys

import duckdb

root = sys.argv[1]
clips = f"read_parquet('{root}/clips/*.parquet')"
print(duckdb.sql(f"SELECT count(*) AS clips, round(sum(end_time - start_time), 1) AS seconds FROM {clips}"))
print(
    duckdb.sql(
        f"SELECT clip_id, round(motion_score, 2) AS motion, text_area, caption_video FROM {clips} ORDER BY motion"
    )
)
print(duckdb.sql(f"SELECT video_path, status, error FROM read_parquet('{root}/videos/*.parquet') ORDER BY video_path"))
