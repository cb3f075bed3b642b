#!/bin/sh
# Serves the folders of /data as S3 buckets, to one pair of keys; the bucket of the settings is there from the start.
set -eu

directory=${S3_DIRECTORY:-/data}
mkdir -p "$directory/${BACKUP_S3_BUCKET:?}"
access_key=$(cat "${AWS_ACCESS_KEY_ID_FILE:?}")
secret_key=$(cat "${AWS_SECRET_ACCESS_KEY_FILE:?}")
# Quoted, for rclone splits the variable at commas into several pairs.
RCLONE_AUTH_KEY="\"$access_key,$secret_key\""
export RCLONE_AUTH_KEY
exec rclone serve s3 --config "" --addr "${S3_ADDRESS:-:9000}" --vfs-cache-mode off --dir-cache-time 0s "$directory"
