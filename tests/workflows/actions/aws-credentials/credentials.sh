set -euo pipefail
case "$ROLE" in arn:aws:iam::*) ;; *) echo "no role: $ROLE" && exit 1 ;; esac
{
  echo "AWS_ACCESS_KEY_ID=${ROLE##*/}"
  echo "AWS_SECRET_ACCESS_KEY=secret"
  echo "AWS_REGION=$REGION"
  echo "AWS_DEFAULT_REGION=$REGION"
  echo "AWS_ENDPOINT_URL=$ACT_S3"
  echo "AWS_ALLOW_HTTP=true"
} >> "$GITHUB_ENV"
