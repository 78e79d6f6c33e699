// What the theme leaves out for keyboards, for readers of the screen, and for a site that was built without npm.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap"))
    wide.tabIndex = 0
  const search = document.querySelector(".md-search__input")
  if (search && location.protocol === "file:" && !window.IFrameWorker) {
    search.placeholder = "No search here: npm was missing when this was built"
    search.disabled = true
  }
})
