# shellcheck shell=bash
# A web server for a folder of files. Sourced after pins.sh.

# serve_folder FOLDER: serves it on a free port of loopback; sets server (its process id, to be
# killed by the caller) and address.
serve_folder() {
  local log; log=$(mktemp -d)
  python3 - "$1" >"$log/port" 2>"$log/errors" <<'PYTHON' &
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
  server=$!
  until [ -s "$log/port" ]; do
    kill -0 $server 2>/dev/null || { cat "$log/errors" >&2; die "$1 cannot be served"; }
    sleep 0.05
  done
  # shellcheck disable=SC2034 # for the caller
  address=http://127.0.0.1:$(cat "$log/port")
  rm -r "$log"
}
