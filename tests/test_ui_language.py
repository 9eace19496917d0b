"""Which language a visitor reads: asked of the browser, remembered once chosen, spoken by Gradio's own parts too."""

import httpx
import pytest
from visitor import Refused, Visitor, address  # noqa: F401  (a fixture)

from lab.run import new_run
from lab.ui import bilingual, texts

ko, en = texts.TEXTS["ko"], texts.TEXTS["en"]


def props(url, **headers):
    """Labels, infos and values of all components as the page is served."""
    config = httpx.get(f"{url}/config", headers=headers).json()
    return {str(c["props"].get(k)) for c in config["components"] for k in ("label", "info", "value", "placeholder")}


def test_the_page_is_served_in_the_browsers_language(address):  # noqa: F811
    english = props(address, **{"accept-language": "en-US,en;q=0.9,ko;q=0.8"})
    korean = props(address, **{"accept-language": "ko-KR"})
    for key in ("whole", "chat", "run_info", "send", "preset"):
        assert en[key] in english and ko[key] not in english
        assert ko[key] in korean and en[key] not in korean
    # What the first look fills in later is in the language from the start as well.
    assert any(en["job_idle"] in text for text in english) and any(ko["job_idle"] in text for text in korean)
    assert "en" in english and "ko" in korean  # the switch itself


def test_what_was_chosen_comes_before_what_the_browser_prefers(address):  # noqa: F811
    asked = {"accept-language": "ko-KR", "cookie": f"other=1; {bilingual.COOKIE}=en"}
    assert en["whole"] in props(address, **asked)
    assert en["whole"] in httpx.get(address, headers=asked).text
    forged = {"accept-language": "ko-KR", "cookie": f"{bilingual.COOKIE}=<script>"}
    assert ko["whole"] in props(address, **forged)


def test_one_visitors_language_is_not_the_next_ones(address):  # noqa: F811
    with httpx.Client(base_url=address) as client:  # one connection for all
        for language in ("en", "ko", "en"):
            told = client.get("/config", headers={"accept-language": language}).text
            assert texts.say("whole", language) in told


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_a_choice_that_is_gone_is_told_in_the_visitors_language(address, language):  # noqa: F811
    run = new_run(title="여우")
    visitor = Visitor(address, run.id, language=language)
    with pytest.raises(Refused) as told:
        visitor.press("rename", "click", run="gone-meanwhile")
    assert texts.say("stale_choice", language) in str(told.value)
    assert "list of choices" not in str(told.value)


def test_a_file_of_another_kind_is_told_in_the_visitors_language(address):  # noqa: F811
    visitor = Visitor(address, language="ko")
    sent = visitor.http.post("/gradio_api/upload", files={"files": ("a.txt", b"text")}).json()
    file = {"path": sent[0], "orig_name": "a.txt", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Refused) as told:
        visitor.press("unpack", "upload", unpack=file)
    assert texts.say("wrong_file", "ko", kinds=".zip") in str(told.value)


def test_programs_are_told_in_english_without_markup(address):  # noqa: F811
    from gradio_client import Client

    app = Client(address, verbose=False)
    with pytest.raises(Exception, match="There is no preset '<b>'"):
        app.predict("<b>", "", api_name="/new_run")


def test_gradio_can_change_its_own_language():
    """The page asks this file of Gradio's to speak; it is found by what it offers, as its name changes with versions."""
    assert bilingual.core_script()


def test_what_gradio_says_in_english_alone_is_still_said_by_this_version():
    scripts = "".join(p.read_text("utf-8", errors="replace") for p in bilingual.ASSETS.glob("*.js"))
    made = {"Error", "Warning", "Info", "Success"}  # from the kind of a message, its first letter raised
    assert [text for text in texts.GRADIO if text not in made and text.rstrip(": ") not in scripts] == []
    assert all(text.strip() for text in texts.GRADIO.values())
