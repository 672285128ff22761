// Unpack the browser that npm brought into $TMPDIR, with the libraries that a bare machine lacks.
import bundled from "@sparticuz/chromium";

await bundled.executablePath();
