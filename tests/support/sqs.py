"""An SQS server for tests: moto's, as a process on a free port, and messages as S3 writes them.

It takes any signature. Events come from nowhere but the tests, which write them as AWS documents them.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from botocore.config import Config
from botocore.session import Session

from tests.support.deadlines import wait_until
from tests.support.processes import Process, Processes, command_path, free_port

__all__ = ["SqsServer", "object_created", "sns_envelope"]

# As of the S3 server, so that one environment serves both.
REGION = "us-east-1"


def object_created(bucket: str, key: str, event: str = "ObjectCreated:Put") -> str:
    """Return the body of S3's message about one object (event message structure 2.1)."""
    return json.dumps(
        {
            "Records": [
                {
                    "eventVersion": "2.1",
                    "eventSource": "aws:s3",
                    "awsRegion": REGION,
                    "eventTime": "2026-11-24T09:00:00.000Z",
                    "eventName": event,
                    "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
                    "requestParameters": {"sourceIPAddress": "192.0.2.1"},
                    "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
                    "s3": {
                        "s3SchemaVersion": "1.0",
                        "configurationId": "hotstart",
                        "bucket": {
                            "name": bucket,
                            "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                            "arn": f"arn:aws:s3:::{bucket}",
                        },
                        "object": {
                            "key": quote_plus(key, safe="/"),
                            "size": 1024,
                            "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                            "sequencer": "0055AED6DCD90281E5",
                        },
                    },
                }
            ]
        }
    )


def sns_envelope(message: str) -> str:
    """Return what SNS makes of a message for a queue that is subscribed to its topic."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "dc1e94d9-56c5-5e96-808d-cc7f68faa162",
            "TopicArn": f"arn:aws:sns:{REGION}:123456789012:models",
            "Subject": "Amazon S3 Notification",
            "Message": message,
            "Timestamp": "2026-11-24T09:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLE",
        }
    )


class SqsServer:
    """One server with one queue. Its process is the caller's ``Processes``'."""

    def __init__(self, processes: Processes) -> None:
        """Begin with no server; start makes one."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.queue_url = ""
        self.process: Process | None = None
        self._processes = processes
        self._client: Any = None

    @property
    def environment(self) -> Mapping[str, str]:
        """What a command needs to find the server."""
        return {
            "AWS_ENDPOINT_URL_SQS": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "hotstart-test",
            "AWS_SECRET_ACCESS_KEY": "hotstart-test-secret",
        }

    def start(self) -> None:
        """Start it, and make the queue; what an earlier start had is gone."""
        command = (command_path("moto_server"), "-H", "127.0.0.1", "-p", str(self.port))
        # Warnings of moto's own are none of ours.
        self.process = self._processes.start(*command, environment={"PYTHONWARNINGS": "ignore"})
        wait_until("moto_server", self._answers)
        session = Session()
        session.set_credentials("hotstart-test", "hotstart-test-secret")
        self._client = session.create_client(
            "sqs", region_name=REGION, endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1})
        )
        self.queue_url = self._client.create_queue(QueueName="models")["QueueUrl"]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/moto-api/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def send(self, body: str) -> None:
        """Put a message into the queue."""
        self._client.send_message(QueueUrl=self.queue_url, MessageBody=body)

    def left(self) -> int:
        """Return how many messages are in the queue, those included that somebody has and did not delete."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self._client.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    def close(self) -> None:
        """Close the test's own connection."""
        if self._client is not None:
            self._client.close()
