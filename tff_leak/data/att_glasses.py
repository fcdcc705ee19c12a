"""Who wears glasses in the AT&T faces: this project's own annotation.

The database has no list of it. Every picture was looked at, person by person, on
contact sheets at twice its size, by one annotator; doubtful ones (closed or narrowed
eyes, heavy brows, blurred pictures) a second time, larger. Glasses count where a frame
or lenses are seen, whatever the kind. No picture remained in doubt: 119 of the 400 show
glasses, all ten of eight people, some of seven others, none of the remaining 25.
"""

import numpy as np

from tff_leak.data.att_faces import PEOPLE, PICTURES

_EVERY = tuple(range(1, PICTURES + 1))

WITH_GLASSES = {
    2: _EVERY,
    4: (1, 2, 3, 8, 9),
    6: _EVERY,
    7: (4, 5, 10),
    13: (1, 2, 5, 6, 7, 8, 9, 10),
    14: _EVERY,
    17: (1, 2, 5, 6, 7, 8, 9, 10),
    19: (1, 2, 3, 6, 10),
    20: (1, 2, 3, 5, 7, 8, 9, 10),
    27: _EVERY,
    28: _EVERY,
    31: _EVERY,
    34: _EVERY,
    36: (9, 10),
    37: _EVERY,
}
"""By person (s1 to s40) the pictures (1.pgm to 10.pgm) with glasses."""


def wears_glasses() -> np.ndarray:
    """Returns bool `[400]`, in the order of the builder: by person, then by picture."""
    worn = np.zeros((PEOPLE, PICTURES), bool)
    for person, pictures in WITH_GLASSES.items():
        worn[person - 1, np.array(pictures) - 1] = True
    return worn.ravel()
