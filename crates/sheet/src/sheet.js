"use strict";
(function () {
  var fields = Array.from(document.querySelectorAll("fieldset[data-version]"));
  if (!fields.length) { return; }
  var count = document.getElementById("count");
  var changed = false;

  function text(field) { return field.querySelector("textarea"); }
  function mark(field) { return field.querySelector("input[type=radio]:checked").value; }
  function set(field, value) {
    field.querySelector("input[type=radio][value='" + value + "']").checked = true;
    field.className = value;
    changed = true;
  }
  function report() {
    var n = { "": 0, approve: 0, reject: 0 };
    fields.forEach(function (field) { n[mark(field)] += 1; });
    count.textContent = n.approve + " approved, " + n.reject + " rejected, " + n[""] + " open";
  }
  function cell(value) {
    if (/^'*[=+\-@\t\r]/.test(value)) { value = "'" + value; }
    return '"' + value.replace(/"/g, '""') + '"';
  }
  function csv() {
    var lines = ["key,column,decision,text,reason,version"];
    fields.forEach(function (field) {
      lines.push([field.closest("article").dataset.key, field.dataset.column, mark(field),
        text(field).value, field.querySelector(".why").value, field.dataset.version]
        .map(cell).join(","));
    });
    return "\ufeff" + lines.join("\r\n") + "\r\n";
  }

  fields.forEach(function (field, at) {
    field.addEventListener("change", function () {
      field.className = mark(field);
      changed = true;
      report();
    });
    field.addEventListener("keydown", function (event) {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) { return; }
      event.preventDefault();
      set(field, event.shiftKey ? "reject" : "approve");
      report();
      var next = fields[at + 1];
      if (next) { text(next).focus(); } else { document.getElementById("save").focus(); }
    });
  });
  document.getElementById("rest").addEventListener("click", function () {
    fields.forEach(function (field) { if (mark(field) === "") { set(field, "approve"); } });
    report();
  });
  document.getElementById("save").addEventListener("click", function () {
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
    link.download = "review.csv";
    link.click();
    changed = false;
  });
  window.addEventListener("beforeunload", function (event) {
    if (changed) { event.preventDefault(); }
  });
  report();
})();
