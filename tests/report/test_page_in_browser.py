"""report.html in Chromium: fits, loads nothing, sorts, prints, is accessible.

Needs Playwright, axe (`pip install -e ".[browser]"`) and a Chromium, that of
the system or one from `playwright install chromium`; skipped without them:

  .venv/bin/python -m pytest -m browser
"""

import shutil

import page_report
import pytest

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

pytestmark = pytest.mark.browser
PHONE, DESKTOP = 360, 1280
# Elements beyond the right edge that no box of their own scrolls.
BEYOND = """
[...document.querySelectorAll("body *")].filter(
  (element) => element.getBoundingClientRect().right > innerWidth + 1
    && !element.closest(".scroll, nav, .unseen")
).map((element) => element.outerHTML.slice(0, 100))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  folder = tmp_path_factory.mktemp("page")
  report = page_report.with_ensemble(page_report.make_report(3))
  shown = page_report.make_examples(3, (28, 28, 1))
  page_report.draw(report, folder, shown)
  return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    try:
      found = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
      )
    except sync_api.Error as error:
      pytest.skip(f"needs Chromium: {error}")
    yield found
    found.close()


@pytest.fixture
def open_page(browser, path):
  """Opens the page; fails on messages of the console and on requests."""
  messages, requests, contexts = [], [], []

  def opened(width=DESKTOP, theme="light", anchor="", injected=False):
    contexts.append(
      browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=theme,
        bypass_csp=injected,
      )
    )
    tab = contexts[-1].new_page()
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri() + anchor)
    return tab

  yield opened
  assert not messages
  assert {
    url.partition("#")[0] for url in requests if not url.startswith("data:")
  } == {path.as_uri()}
  for context in contexts:
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_fits_and_is_accessible(open_page, width, theme):
  tab = open_page(width, theme, injected=True)  # The script of axe.
  assert tab.evaluate("document.documentElement.scrollWidth") == width
  assert tab.evaluate(BEYOND) == []
  found = axe.Axe().run(tab)
  assert found.violations_count == 0, found.generate_report()


def test_a_click_sorts_a_table(open_page):
  tab = open_page()
  head = tab.locator("#table-performance ~ div").first.locator("th").nth(3)
  column = tab.locator("#table-performance ~ div").first.locator(
    "tbody td:nth-child(4)"
  )
  assert head.get_attribute("aria-sort") is None
  values = sorted(column.all_inner_texts())
  head.get_by_role("button").press("Enter")
  assert head.get_attribute("aria-sort") == "ascending"
  assert column.all_inner_texts() == values
  head.get_by_role("button").click()
  assert head.get_attribute("aria-sort") == "descending"
  assert column.all_inner_texts() == values[::-1]


def test_a_link_opens_the_example_that_it_names(open_page):
  tab = open_page(anchor="#example-3")
  assert tab.locator("#example-3").get_attribute("open") is not None
  assert tab.locator("#example-4").get_attribute("open") is None


def test_a_printed_page_is_light_and_shows_everything(open_page, tmp_path):
  tab = open_page(theme="dark")
  tab.evaluate("dispatchEvent(new Event('beforeprint'))")
  assert tab.locator("details:not([open])").count() == 0
  tab.evaluate("dispatchEvent(new Event('afterprint'))")
  assert tab.locator("details:not([open])").count() > 0
  tab.emulate_media(media="print")
  background = "getComputedStyle(document.body).backgroundColor"
  assert tab.evaluate(background) == "rgb(255, 255, 255)"
  assert not tab.locator("nav").is_visible()
