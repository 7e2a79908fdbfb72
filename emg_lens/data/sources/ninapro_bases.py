"""The NinaPro data bases. To add another one, write a `Family` here and a line in `pyproject.toml`.

Source: docs/data-sets.md §2.3.
"""

import re
from dataclasses import replace

from emg_lens.data.sources.ninapro import Family, Sensor
from emg_lens.data.sources.ninapro_labels import Exercise

MYO_FS, TRIGNO_FS, GLOVE_FS = 50.0, 148.0, 25.0
"""Native sampling rates (Hz): a Myo's motion unit, a Trigno's accelerometer, a CyberGlove."""

# Gestures in order of their numbers: exercises A (12), B (17), C (23) and D (9 force patterns).
FINGERS = (
    *(f"{finger} {way}" for finger in ("index", "middle", "ring", "little") for way in ("flexion", "extension")),
    *("thumb adduction", "thumb abduction", "thumb flexion", "thumb extension"),
)
HAND_AND_WRIST = (
    *("thumb up", "index and middle extended", "ring and little flexed", "thumb to base of little finger"),
    *("fingers abducted", "fist", "pointing index", "extended fingers adducted"),
    *("supination, axis middle finger", "pronation, axis middle finger"),
    *("supination, axis little finger", "pronation, axis little finger"),
    *("wrist flexion", "wrist extension", "radial deviation", "ulnar deviation", "wrist extension, closed hand"),
)
GRASPS = (
    *("large diameter", "small diameter", "fixed hook", "index finger extension", "medium wrap", "ring", "prismatic"),
    *("stick", "writing tripod", "power sphere", "three-finger sphere", "precision sphere", "tripod"),
    *("prismatic pinch", "tip pinch", "quadpod", "lateral", "parallel extension", "extension type", "power disk"),
    *("open a bottle", "turn a screw", "cut"),
)
FORCES = (
    *("little flexion force", "ring flexion force", "middle flexion force", "index flexion force"),
    *("thumb abduction force", "thumb flexion force", "index and little flexion force"),
    *("ring and middle flexion force", "index and thumb force"),
)

FORCE_CODES = (1, 2, 4, 6, 8, 9, 16, 32, 40)
"""Labels of the force patterns in early releases."""

RING_AND_MUSCLES = (
    *(f"ring {i}" for i in range(1, 9)),
    *("flexor digitorum superficialis", "extensor digitorum superficialis", "biceps", "triceps"),
)
FOREARM = "ring at the radio-humeral joint, and single muscles"
TRIGNO_EMG = Sensor("V", 2000.0, RING_AND_MUSCLES, FOREARM)
TRIGNO_ACC = Sensor("g", TRIGNO_FS, RING_AND_MUSCLES, "in the EMG electrodes", three_axes=True)
SIXTEEN = tuple(f"electrode {i}" for i in range(1, 17))
SIXTEEN_ACC = Sensor("g", TRIGNO_FS, SIXTEEN, "in the EMG electrodes", three_axes=True)
GLOVE = Sensor("", GLOVE_FS, tuple(f"glove {i}" for i in range(1, 23)), "data glove, not calibrated")
STORED_AT_EMG_RATE = "acc: native rate of 148 Hz, stored by the publisher at the rate of the EMG"

DB1 = Family(
    name="ninapro-db1",
    description="NinaPro DB1, folder with S<n>_A1_E<e>.mat: 10 rectified EMG channels at 100 Hz",
    fs=100.0,
    exercises={1: Exercise(12, 1, (10,)), 2: Exercise(17, 13, (10,)), 3: Exercise(23, 30, (10,))},
    sensors={"emg": Sensor("", 100.0, RING_AND_MUSCLES[:10], FOREARM), "glove": GLOVE},
    default=("emg",),
    gestures=(*FINGERS, *HAND_AND_WRIST, *GRASPS),
    notes=("emg: the electrodes deliver a rectified, smoothed signal at 100 Hz",),
)

DB2 = Family(
    name="ninapro-db2",
    description="NinaPro DB2, folder with S<n>_E<e>_A1.mat: 12 EMG channels at 2000 Hz, each with an accelerometer",
    fs=2000.0,
    exercises={1: Exercise(17, 1), 2: Exercise(23, 18), 3: Exercise(9, 41, codes=FORCE_CODES)},
    sensors={
        "emg": TRIGNO_EMG,
        "acc": TRIGNO_ACC,
        "glove": GLOVE,
        "force": Sensor("", 2000.0, tuple(f"force {i}" for i in range(1, 7)), "finger-force sensors (exercise 3)"),
    },
    gestures=(*HAND_AND_WRIST, *GRASPS, *FORCES),
    notes=(STORED_AT_EMG_RATE,),
)

DB3 = replace(
    DB2,
    name="ninapro-db3",
    description="NinaPro DB3, as DB2, of people with an amputated hand; two of them with 10 electrodes",
    sensors={"emg": TRIGNO_EMG, "acc": TRIGNO_ACC},
    fewest_electrodes=10,
)

DB5 = Family(
    name="ninapro-db5",
    description="NinaPro DB5, folder with S<n>_E<e>_A1.mat: two Myo bands (16 EMG at 200 Hz) and an accelerometer",
    fs=200.0,
    exercises={1: Exercise(12, 1), 2: Exercise(17, 13), 3: Exercise(23, 30)},
    sensors={
        "emg": Sensor(
            units="adc",
            native_fs=200.0,
            ch_names=tuple(f"{band}.{i}" for band in ("upper", "lower") for i in range(1, 9)),
            placement="two Myo bands: upper at the radio-humeral joint, lower below it, tilted 22.5°",
        ),
        "acc": Sensor("g", MYO_FS, ("x", "y", "z"), "upper Myo band"),
        "glove": GLOVE,
    },
    gestures=(*FINGERS, *HAND_AND_WRIST, *GRASPS),
    notes=("acc: native rate of 50 Hz assumed (that of a Myo), stored by the publisher at 200 Hz",),
)

DB6 = Family(
    name="ninapro-db6",
    description="NinaPro DB6, folder with S<n>_D<day>_T<1|2>.mat: 14 EMG channels at 2000 Hz, ten sessions of 7 grasps",
    fs=2000.0,
    exercises={1: Exercise(11, 1, repetitions=(12,) * 10, performed=(1, 3, 4, 6, 9, 10, 11))},
    sensors={"emg": Sensor("V", 2000.0, SIXTEEN, "forearm"), "acc": SIXTEEN_ACC},
    default=("emg",),
    notes=("repetition numbers continue through the ten sessions (12 each, in order of day and time)",),
    file_name=re.compile(r"S(?P<subject>\d+)_D(?P<day>[1-5])_T(?P<time>[12])\.mat", re.IGNORECASE),
)

DB7 = Family(
    name="ninapro-db7",
    description="NinaPro DB7, folder with S<n>_E<1|2>_A1.mat: 12 EMG channels at 2000 Hz, each with acc, gyro, mag",
    fs=2000.0,
    exercises={1: Exercise(17, 1), 2: Exercise(23, 18)},
    sensors={
        "emg": TRIGNO_EMG,
        "acc": TRIGNO_ACC,
        "gyro": Sensor("", TRIGNO_FS, RING_AND_MUSCLES, "in the EMG electrodes", three_axes=True),
        "mag": Sensor("", TRIGNO_FS / 2, RING_AND_MUSCLES, "in the EMG electrodes", three_axes=True),
    },
    gestures=(*HAND_AND_WRIST, *GRASPS),
    notes=(STORED_AT_EMG_RATE, "emg: electrodes assumed to be placed as in DB2"),
)

DOA = (
    {0: 0.639, 1: 0.383, 3: -0.639, 16: -0.19},
    {2: 1.0},
    {4: 0.4, 5: 0.6},
    {6: 0.4, 7: 0.6},
    {9: 0.1667, 10: 0.3333, 12: 0.1667, 13: 0.3333},
)
"""Five degrees of actuation as weighted sums of the glove's sensors, from 0 (Krasoulis et al. 2019, eq. S2)."""

DB8 = Family(
    name="ninapro-db8",
    description="NinaPro DB8, folder with S<n>_E1_A<1|2|3>.mat: 16 EMG channels, and the fingers' angles (glove, doa)",
    fs=2000.0,
    exercises={1: Exercise(9, 1, repetitions=(10, 10, 2))},
    sensors={
        "emg": Sensor("V", 1111.0, SIXTEEN, "forearm"),
        "acc": SIXTEEN_ACC,
        "gyro": Sensor("", TRIGNO_FS, SIXTEEN, "in the EMG electrodes", three_axes=True),
        "mag": Sensor("", TRIGNO_FS / 2, SIXTEEN, "in the EMG electrodes", three_axes=True),
        "glove": Sensor("deg", GLOVE_FS, tuple(f"glove {i}" for i in range(1, 19)), "data glove", may_be_nan=True),
        "doa": Sensor(
            *("deg", GLOVE_FS, tuple(f"DoA {i}" for i in range(1, 6)), "data glove"),
            key="glove",
            weights=DOA,
            may_be_nan=True,
        ),
    },
    default=("emg", "doa"),
    gestures=(
        *("thumb flexion/extension", "thumb abduction/adduction", "index flexion/extension"),
        *("middle flexion/extension", "ring and little flexion/extension", "pointing index", "cylindrical grip"),
        *("lateral grip", "tripod grip"),
    ),
    notes=(
        "emg: native rate of 1111 Hz, stored by the publisher at 2000 Hz: no content above 555 Hz",
        "repetition numbers continue through the three acquisitions: 1 to 10, 11 to 20, 21 and 22",
    ),
)

DB1_FILES, DB2_FILES, DB3_FILES, DB5_FILES, DB6_FILES, DB7_FILES, DB8_FILES = (
    family.data_set() for family in (DB1, DB2, DB3, DB5, DB6, DB7, DB8)
)
