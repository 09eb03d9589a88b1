set -euo pipefail
test "$PERSIST" = false
git init --quiet --initial-branch=nothing .
git remote add origin "file://$ACT_ORIGIN"
if [ "$DEPTH" = 0 ]; then
  git fetch --quiet origin '+refs/heads/*:refs/remotes/origin/*'
else
  git fetch --quiet --depth="$DEPTH" origin "$REF"
fi
if git show-ref --quiet "refs/remotes/origin/$REF"; then
  git checkout --quiet -B "$REF" "origin/$REF"
elif [ "$DEPTH" = 0 ]; then
  git checkout --quiet --detach "$REF"
else
  git checkout --quiet --detach FETCH_HEAD
fi
echo /.venv >> .git/info/exclude
mkdir -p .venv
ln -sfn "$ACT_BIN" .venv/bin
touch .venv/.ready
