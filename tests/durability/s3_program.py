"""A server with S3's protocol that checks keys, on a free port; says on its first line where it is. Run as a program.

It is moto's, which keeps everything in memory, and is installed for it alone; see `s3.py`.
"""

from __future__ import annotations

import json
import os
import sys

BUCKET = "rlm"
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def main() -> None:
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "4"  # those below; what comes after them needs a right key
    import boto3  # type: ignore[import-not-found]
    from moto.server import ThreadedMotoServer  # type: ignore[import-not-found]

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "none",
        "aws_secret_access_key": "none",
    }
    boto3.client("s3", **options).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **options)
    iam.create_user(UserName="rlm")
    key = iam.create_access_key(UserName="rlm")["AccessKey"]
    iam.put_user_policy(UserName="rlm", PolicyName="all", PolicyDocument=json.dumps(_ALL))
    print(json.dumps({"port": port, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
    sys.stdin.read()


main()
