// What is wider than its place scrolls, and so can be reached by the keyboard.
addEventListener("load", () => {
  const reach = box => { box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1; };
  const watch = new ResizeObserver(entries => entries.forEach(({target}) => reach(target)));
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach(box => watch.observe(box));
});
