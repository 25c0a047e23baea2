"""Which projects there are, which one is worked in, and how it is chosen."""

import pytest
from conftest import USER

import podstack


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


@pytest.fixture
def user(api):
    return api.account_of("user@example.com")


# ---- list


def test_the_list_marks_the_current_project(cli, api):
    api.clock.advance(podstack.parse_time("2024-01-15T12:00:00Z") - api.clock.now())
    for project in api.projects.values():
        project["created_at"] = "2024-01-15T12:00:00Z"
    next(iter(api.projects.values()))["description"] = "Models"
    done = cli("project", "list", "--project", "work-project")
    assert done.out == (
        "   NAME              ID             CREATED     DESCRIPTION\n"
        "   my-project        proj-00000001  2024-01-15  Models\n"
        "   personal-project  proj-00000002  2024-01-15  -\n"
        "*  work-project      proj-00000003  2024-01-15  -\n"
    )
    assert done.err == ""
    (request,) = api.requests
    assert request.target == "/v1/projects?page=1&limit=100"
    assert "X-Project-ID" not in request.headers


def test_the_current_project_is_marked_by_its_id_too(cli, api):
    done = cli("project", "list", env={"PODSTACK_PROJECT": "proj-00000002"})
    assert [line.split()[1] for line in done.out.splitlines() if line.startswith("*")] == [
        "personal-project"
    ]


def test_the_list_for_a_script_is_the_servers_objects(cli, api, user):
    api.add_project(user, "odd", "a\nb \u202e\x1b")["cost_center"] = {"id": 7}
    rows = [dict(project) for project in api.projects_of(user)]
    assert cli("project", "list", "-o", "json").json == rows
    shown = podstack.yaml_load(cli("project", "list", "-o", "yaml").out)
    assert [row["id"] for row in shown] == [row["id"] for row in rows]
    assert shown[-1]["description"] == "a\nb \u202e\x1b"
    assert shown[-1]["cost_center"] == {"id": "7"}
    assert cli("-q", "project", "list").out == "".join(row["id"] + "\n" for row in rows)


@pytest.mark.parametrize("count, requests", [(3, 1), (100, 1), (101, 2), (250, 3)])
def test_every_page_is_read_once(cli, api, user, count, requests):
    for number in range(count - 3):
        api.add_project(user, "project-%d" % number, "")
    done = cli("project", "list", "-q")
    assert len(set(done.out.splitlines())) == count
    assert sorted(request.target for request in api.requests) == [
        "/v1/projects?page=%d&limit=100" % page for page in range(1, requests + 1)
    ]


SHAPES = [
    pytest.param(lambda rows: {"projects": rows}, id="sdk"),
    pytest.param(lambda rows: {"data": rows}, id="data"),
    pytest.param(lambda rows: {"items": rows}, id="items"),
    pytest.param(lambda rows: rows, id="bare"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_a_list_is_read(cli, api, shape):
    api.next("/v1/projects", body=shape([{"id": "proj-1", "name": "one"}]))
    done = cli("project", "list")
    assert done.out == "  NAME  ID      CREATED  DESCRIPTION\n  one   proj-1  -        -\n"


def test_an_empty_list(cli, api):
    api.next("/v1/projects", times=3, body={"projects": []})
    assert cli("project", "list").out == "  NAME  ID  CREATED  DESCRIPTION\n"
    assert cli("project", "list", "-o", "json").out == "[]\n"
    assert cli("project", "list", "-o", "yaml").out == "[]\n"


# ---- use


@pytest.mark.parametrize("word", ["my-project", "proj-00000002"])
def test_a_project_that_exists_is_stored_as_typed(cli, api, config, word):
    done = cli("project", "use", word)
    assert (done.out, done.err) == ("", "Using project '%s'\n" % word)
    assert config.read_text() == "defaults:\n  project: %s\n" % word
    assert len(api.requests) == 1
    assert cli("project", "current").out == word + "\n"


def test_a_project_on_a_later_page_is_found_and_no_page_read_twice(cli, api, user):
    for number in range(350):
        api.add_project(user, "project-%d" % number, "")
    cli("project", "use", "project-150")
    targets = [request.target for request in api.requests]
    # Where a page is slow to come, the next ones are asked for at the same time.
    assert 2 <= len(targets) == len(set(targets)) <= 4


def test_a_project_that_does_not_exist_is_not_stored(cli, api, config):
    config.write_text("defaults:\n  project: my-project\n")
    done = cli("project", "use", "my-projekt", code=6)
    assert done.err == "Error: Project 'my-projekt' not found\nSee: podstack project list\n"
    assert config.read_text() == "defaults:\n  project: my-project\n"


def test_a_project_can_be_stored_unchecked(cli, api, config):
    env = {"PODSTACK_API_TOKEN": None}
    done = cli("project", "use", "not there yet", "--no-verify", env=env)
    assert done.err == "Using project 'not there yet'\n"
    assert config.read_text() == 'defaults:\n  project: "not there yet"\n'
    assert api.requests == []


@pytest.mark.parametrize("word", ["", "a\nb", "\x1b[2J"])
def test_a_word_that_names_no_project(cli, api, config, word):
    done = cli("project", "use", word, "--no-verify", code=2)
    assert done.err == (
        "Error: PROJECT must be one line of plain text, not '%s'\n"
        "See: podstack project use --help\n" % podstack.printable(word)
    )
    assert not config.exists()


def test_the_project_is_the_profiles(cli, api, config):
    text = "profiles:\n  default:\n    project: my-project\n  work:\n    token: %s\n" % USER
    config.write_text(text + '    endpoint: "%s"\n' % api.url)
    config.chmod(0o600)
    cli("--profile", "work", "project", "use", "work-project")
    assert config.read_text() == text + (
        '    endpoint: "%s"\n    project: work-project\n' % api.url
    )
    assert cli("project", "current").out == "my-project\n"
    assert cli("project", "current", "--profile", "work").out == "work-project\n"


def test_the_environments_project_is_named_where_it_overrides(cli, api):
    done = cli("project", "use", "my-project", env={"PODSTACK_PROJECT": "work-project"})
    assert done.err == "Using project 'my-project'\nPODSTACK_PROJECT is set and overrides it\n"


def test_using_a_project_leaves_the_rest_of_the_file_as_it_is(cli, api, config):
    text = "# mine\r\ndefaults: # here\r\n  output: json\r\n  project:   old   # this one\r\n"
    config.write_bytes(text.encode())
    cli("project", "use", "my-project")
    assert config.read_bytes() == text.replace("old", "my-project").encode()


# ---- current


def test_the_current_project_is_the_first_of_option_environment_and_file(cli, api, config):
    config.write_text("defaults:\n  project: from-file\n")
    env = {"PODSTACK_PROJECT": "from-env"}
    assert cli("project", "current").out == "from-file\n"
    assert cli("project", "current", env=env).out == "from-env\n"
    assert cli("project", "current", "--project", "from-option", env=env).out == "from-option\n"
    assert cli("--profile", "default", "project", "current", env=env).out == "from-file\n"
    assert cli("project", "current", env={"PODSTACK_PROJECT": ""}).out == "from-file\n"
    assert cli("project", "current", env={"PODSTACK_OUTPUT": "json"}).out == "from-file\n"
    assert cli("project", "current", "-o", "json").out == '"from-file"\n'
    assert api.requests == []


def test_without_a_project_there_is_none_to_print(cli, api):
    done = cli("project", "current", code=6)
    assert (done.out, done.err) == (
        "", "Error: No project is set\nRun: podstack project use NAME\n"
    )  # fmt: skip


# ---- create


def test_a_project_is_created_with_what_was_given_and_no_more(cli, api, config):
    done = cli("project", "create", "--name", "new-one")
    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/v1/projects")
    assert request.json == {"name": "new-one"}
    assert done.err == "Created project 'new-one'\n"
    assert done.out == "proj-00000007  new-one\n"
    assert not config.exists()


def test_a_project_is_created_described_and_used(cli, api, config):
    done = cli("project", "create", "--name", "new-one", "--desc", "", "--use")
    assert api.requests[0].json == {"name": "new-one", "description": ""}
    assert done.err == "Created project 'new-one'\nUsing project 'new-one'\n"
    assert config.read_text() == "defaults:\n  project: new-one\n"


def test_a_new_project_for_a_script(cli, api):
    assert cli("-q", "project", "create", "--name", "one").out == "proj-00000007\n"
    done = cli("project", "create", "--name", "two", "--desc", "2", "-o", "json")
    assert done.json == dict(api.find_project(api.account_of("user@example.com"), "two"))
    assert done.json["description"] == "2"


def test_a_project_that_exists_is_neither_made_nor_used(cli, api, config):
    done = cli("project", "create", "--name", "my-project", "--use", code=1)
    assert (done.out, done.err) == (
        "",
        "Error: A project named 'my-project' exists already\nSee: podstack project create --help\n",
    )
    assert not config.exists()


def test_a_projects_name_is_needed(cli, api):
    done = cli("project", "create", code=2)
    assert done.err.splitlines()[1] == "See: podstack project create --help"
    assert api.requests == []
