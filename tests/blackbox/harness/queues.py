"""Queues that answer as SQS does, and misbehave as they are told: what an emulator cannot be made to do.

    with Queues() as queues:                      # its endpoint for `destinations.endpoint`
        queues.answer("orders", queues.REFUSE)    # from here on; ACCEPT until told otherwise
        queues.messages("orders")                 # bodies that were accepted

It speaks the JSON protocol of SQS, and of that GetQueueUrl and SendMessage.
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACCOUNT = "123456789012"


class Queues:
    ACCEPT, REFUSE, FAIL, HANG = "accept", "refuse", "fail", "hang"

    def __enter__(self):
        self.changed = threading.Condition()
        self.answers = defaultdict(lambda: self.ACCEPT)
        self.accepted, self.asked = defaultdict(list), defaultdict(int)
        self.ending = threading.Event()
        queues = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                operation = self.headers["X-Amz-Target"].split(".")[1]
                answer = getattr(queues, operation)(body)
                if answer is None:
                    queues.ending.wait()
                    self.close_connection = True
                    return
                status, content = answer[0], json.dumps(answer[1]).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def arn(name):
        return f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"

    def answer(self, name, how):
        with self.changed:
            self.answers[name] = how

    def messages(self, name):
        with self.changed:
            return [json.loads(body) for body in self.accepted[name]]

    def await_messages(self, name, count, seconds):
        self._await(lambda: len(self.accepted[name]) >= count, f"{count} messages in {name}", seconds)
        return self.messages(name)

    def await_asked(self, name, count, seconds):
        """Until so many messages were sent there, accepted or not."""
        self._await(lambda: self.asked[name] >= count, f"{count} attempts to send to {name}", seconds)

    def _await(self, reached, what, seconds):
        with self.changed:
            deadline = time.monotonic() + seconds
            while not reached():
                left = deadline - time.monotonic()
                assert left > 0, f"{what}: not within {seconds} s"
                self.changed.wait(left)

    # === operations: a status and a body, or `None` for no answer at all ===

    def GetQueueUrl(self, body):
        return 200, {"QueueUrl": f"{self.endpoint}/{ACCOUNT}/{body['QueueName']}"}

    def SendMessage(self, body):
        name, message = body["QueueUrl"].rsplit("/", 1)[1], body["MessageBody"]
        with self.changed:
            how = self.answers[name]
            self.asked[name] += 1
            if how == self.ACCEPT:
                self.accepted[name].append(message)
            self.changed.notify_all()
        if how == self.REFUSE:
            return 403, {"__type": "com.amazonaws.sqs#AccessDenied", "message": "not for you"}
        if how == self.FAIL:
            return 500, {"__type": "com.amazonaws.sqs#InternalFailure", "message": "over here"}
        if how == self.HANG:
            return None
        digest = hashlib.md5(message.encode(), usedforsecurity=False).hexdigest()
        return 200, {"MessageId": f"{name}-{self.asked[name]}", "MD5OfMessageBody": digest}
