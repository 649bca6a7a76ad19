"""A quota backend for the preset `headers`: LIMIT units each WINDOW seconds, for each descriptor."""
import collections, math, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT, WINDOW = int(os.environ.get("LIMIT", 100)), int(os.environ.get("WINDOW", 60))
lock, used, window_end = threading.Lock(), collections.Counter(), 0.0

def charge(descriptor, cost, least):
    """Gives the cost, or what remains if that will do, or None; then what remains, how long."""
    global window_end
    with lock:  # each connection has a thread of its own
        now = time.monotonic()
        if now >= window_end:
            used.clear()  # which bounds the memory, too
            window_end = now + WINDOW
        remaining = LIMIT - used[descriptor]
        granted = min(cost, remaining) if least <= remaining else None
        used[descriptor] += granted or 0
        return granted, LIMIT - used[descriptor], math.ceil(window_end - now)

class Check(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the proxy keeps its connections open
    log_message = lambda *_: None

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != "/check":
            return self.answer(404, {})
        who, cost = self.headers.get("x-quota-descriptor"), self.headers.get("x-quota-cost", "")
        least = self.headers.get("x-quota-cost-min", cost)  # only a check for a lease has it
        if who is None or not (cost.isdecimal() and least.isdecimal()):
            return self.answer(400, {})
        granted, remaining, reset = charge(who, int(cost), int(least))
        told = {"ratelimit-policy": f'"default";q={LIMIT};w={WINDOW}',
                "ratelimit": f'"default";r={remaining};t={reset}'}
        if granted is None:
            return self.answer(429, told | {"retry-after": reset})
        self.answer(200, told | {"x-quota-granted": granted})

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in (headers | {"content-length": 0}).items():
            self.send_header(name, str(value))
        self.end_headers()

ThreadingHTTPServer.request_queue_size = 128  # a burst opens many connections at once
server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), Check)
print(f"listening on 127.0.0.1:{server.server_address[1]}", flush=True)
server.serve_forever()
