// What the theme leaves out for keyboards and for readers of the screen.
document$.subscribe(() => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap"))
    wide.tabIndex = 0
})
