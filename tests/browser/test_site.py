"""The documentation in a browser, from file://: whole, quiet, readable; search and colours work."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.inspection import findings
from tests.pages.blocks import PAGES

OURS = [path.removeprefix("docs/").removesuffix(".md") for path in PAGES if path.startswith("docs/")]


@pytest.mark.parametrize("page", OURS)
def test_a_page(browser, site, page):
    assert findings(browser, site.path / f"{page}.html") == {}


def test_search_works_without_a_server(browser, site):
    browser.open(site.path / "index.html")
    field = browser.driver.find_element(By.CSS_SELECTOR, "input[name=query]")
    browser.driver.execute_script("arguments[0].focus()", field)
    field.send_keys("accumulator_dtype")
    found = WebDriverWait(browser.driver, 30).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, "a.md-search-result__link")
    )
    assert any("api/index.html" in link.get_attribute("href") for link in found)
    assert browser.foreign_requests() == []
    assert browser.complaints() == []


def test_the_reader_may_choose_the_colours(browser, site):
    browser.open(site.path / "index.html")
    browser.show(dark=True)
    body = browser.driver.find_element(By.TAG_NAME, "body")
    schemes = []
    for _ in range(3):
        schemes.append(body.get_attribute("data-md-color-scheme"))
        (label,) = (
            e
            for e in browser.driver.find_elements(By.CSS_SELECTOR, "label[for^=__palette]")
            if e.is_displayed()
        )
        label.click()
    assert schemes == ["slate", "default", "slate"]  # as the system has it, light, dark
