"""Answers with the event."""


def lambda_handler(event, context):
    return event
