"""draw: pictures for people. Contact sheets, films of a denoising, strips of a picture being noised, charts; all as files.

pixels.py  pictures as a model sees them -> bytes, or one clear refusal
page.py    paper, ink and lettering shared by sheets, strips and films
grid.py    contact sheets          film.py   GIF, WebP, APNG and video of a denoising
reel.py    the same of pictures    video.py  MP4 and WebM, where there is an encoder
strip.py   forward noising         chart.py  schedules, grids and losses (matplotlib, imported when a chart is drawn)
"""

from safelight.draw.film import Frame, film, frames
from safelight.draw.grid import save, sheet
from safelight.draw.page import DARKROOM, WHITE, Paper
from safelight.draw.pixels import to_bytes, to_image
from safelight.draw.strip import noise_strip

__all__ = ["DARKROOM", "WHITE", "Frame", "Paper", "film", "frames", "noise_strip", "save", "sheet", "to_bytes", "to_image"]
