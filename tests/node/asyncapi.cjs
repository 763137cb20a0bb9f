// Validates one AsyncAPI document with AsyncAPI's own parser; prints what is wrong with it, one finding a line.
const { Parser, fromFile } = require("@asyncapi/parser");

fromFile(new Parser(), process.argv[2])
  .parse()
  .then(({ document, diagnostics }) => {
    const wrong = diagnostics.filter((one) => one.severity <= 1);
    wrong.forEach((one) => console.log(`${one.path.join(".")}: ${one.message}`));
    if (document) console.log(`channels: ${document.channels().all().length}`);
    process.exitCode = wrong.length || !document ? 1 : 0;
  });
