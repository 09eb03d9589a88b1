set -euo pipefail
test "$RUN" = "$GITHUB_RUN_ID" || test -n "$TOKEN"
if [ -n "$NAME" ]; then
  mkdir -p "$TARGET"
  cp -r "$ACT_ARTIFACTS/$RUN/$NAME/." "$TARGET"
else
  test "$MERGE" = true
  for found in "$ACT_ARTIFACTS/$RUN"/$PATTERN; do # none is no error, as with the real action
    if [ -d "$found" ]; then mkdir -p "$TARGET" && cp -r "$found/." "$TARGET"; fi
  done
fi
