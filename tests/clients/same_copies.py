"""Command lines of `cp` that docker's CLI and corten answer alike: see same_answers."""

from __future__ import annotations

COPIES = """
cp
cp x
cp cli-box:/etc/passwd
cp '' cli-box:/x
cp cli-box:/x ''
cp a b c
cp -Z a cli-box:/x
cp --nonsense
cp {folder}/nope {folder}/other
cp cli-box:/etc/passwd cli-done:/tmp
cp nope:/etc/passwd {folder}/x
cp {folder}/nope cli-box:/tmp
cp cli-box:/nope {folder}/x
cp cli-box:/nope -
cp cli-box:/etc/passwd {folder}/no/such/folder
cp cli-box:/etc/passwd /dev/null
cp cli-box: {folder}
cp {folder} cli-box:
cp {folder} cli-box:/etc/passwd
cp {folder} cli-box:/dev/null/x
cp - cli-box:/etc/passwd
cp - cli-box:/nope
cp -q=maybe {folder} cli-box:/tmp
cp -L cli-box:/nope {folder}/x
cp -a {folder}/nope cli-box:/nope/
cp cli-box:/etc/group {folder}/group
cp -q cli-box:/etc/group {folder}/group
cp -L -q cli-box:/etc/group {folder}/group
cp --quiet=false cli-done:/etc/group {folder}/group
cp --quiet=false {folder}/group cli-paused:/tmp
container cp cli-paused:/etc/group {folder}
"""
