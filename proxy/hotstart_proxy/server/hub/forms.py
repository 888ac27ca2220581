"""Problems as the Hub puts them: clients go by ``X-Error-Code``, and show ``X-Error-Message``."""

from __future__ import annotations

from hotstart.wire import documents
from hotstart_proxy.server.problems import Form, Problem

__all__ = ["COMMIT_HEADER", "hub_form"]

COMMIT_HEADER = "X-Repo-Commit"
_ERROR_CODES = {"model": "RepoNotFound", "version": "RevisionNotFound", "file": "EntryNotFound"}
# To any other 401 about a model a client says that the model is not there.
_WRONG_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  no token


def hub_form(problem: Problem, commit: str | None = None) -> Form:
    """Put a problem into the Hub's form.

    Args:
        problem: what went wrong.
        commit: the version's id, once it is known: a client remembers by it which files are not there.
    """
    message = problem.detail.encode("ascii", "replace").decode("ascii").replace("\r", " ").replace("\n", " ")
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        **problem.headers,
        "X-Error-Message": _WRONG_TOKEN if problem.status == 401 else message,
    }
    code = _ERROR_CODES.get(str(problem.members.get("what"))) if problem.status == 404 else None
    if code is not None:
        headers["X-Error-Code"] = code
    if commit is not None:
        headers[COMMIT_HEADER] = commit
    return Form(problem.status, headers, documents.dump_json({"error": problem.detail, "code": problem.code}))
