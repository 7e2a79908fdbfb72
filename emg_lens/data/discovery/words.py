"""Words in names of files, columns and variables that say what they hold."""

import re
from collections.abc import Iterable

SENSORS = {  # modality -> words that name it
    "emg": "emg semg hdemg myo myo emgs muscle uv mv",
    "acc": "acc accel accelerometer accelerometers accelerometry acceleration accs",
    "gyro": "gyro gyr gyroscope gyroscopes angularvelocity",
    "mag": "mag magn magnetometer",
    "quat": "quat quaternion quaternions orientation ori",
    "imu": "imu inertial inertials",
    "force": "force forces fsr load loadcell torque grip",
    "glove": "glove gloves cyberglove",
    "angles": "angle angles joint joints euler roll pitch yaw kinematics",
    "pressure": "pressure fmg",
    "eeg": "eeg",
    "ecg": "ecg ekg",
    "eog": "eog",
    "ppg": "ppg",
    "eda": "eda gsr",
}
AXES = {  # x, y, z (and w) columns of one sensor
    "acc": ("x y z", "ax ay az", "accx accy accz", "acc1 acc2 acc3"),
    "gyro": ("gx gy gz", "gyrx gyry gyrz", "wx wy wz"),
    "mag": ("mx my mz",),
    "quat": ("qw qx qy qz", "qx qy qz qw", "q0 q1 q2 q3", "w x y z"),
}
ROLES = {
    "time": "time t timestamp timestamps times seconds second sec ms msec millis epoch datetime xs",
    "label": "label labels class classes gesture gestures movement movements stimulus restimulus activity target"
    " targets y task exercise pose command cmd sign move motion gt annotation annotations action trialtype event"
    " events grasp",
    "repetition": "repetition repetitions rep reps rerepetition trial trials run repeat attempt take r",
    "subject": "subject subjects subj sub person participant user patient volunteer proband vp s p id suj individual",
    "onset": "onset onsets start begin",
    "duration": "duration durations",
    "stop": "stop end offset",
    "session": "session sessions ses day d block visit series sess week date",
}
IN_NAMES = {"label": "g m c e a l k", "repetition": "t n try", "session": "set"}
"""Letters that only names of files use."""
IGNORED = (
    "index counter frame frames sample samples packet battery temp temperature trigger triggers marker markers sync"
    " status unnamed row rows nseq age height weight hr heartrate checksum digital unix"
)
"""Columns that are no channels of a sensor."""
RATES = "fs sfreq srate samplingrate samplingfrequency samplerate frequency freq rate hz"
PREFERRED = ("restimulus", "rerepetition")
"""Variables that stand for another with a shorter name: NinaPro's corrected labels."""
OUTCOMES = ("force", "glove", "angles")
"""Modalities that measure the movement itself: the study predicts them, or leaves them out of the input."""

GESTURES = (
    "fist open close closed rest relax pinch wave point pointing flexion extension pronation supination radial ulnar"
    " deviation grip grasp thumb index middle ring little pinky finger fingers hand palm wrist ok peace spread tap tip"
    " lateral power key cylinder cylindrical spherical tripod victory walk walking sit stand stairs run lift reach rock"
    " paper scissors up down left right in out nogesture noise"
)
"""Words of gestures, which are not names of subjects."""

_SENSOR_OF = {word: sensor for sensor, words in SENSORS.items() for word in words.split()}
_ROLE_OF = {word: role for role, words in ROLES.items() for word in words.split()}
_ROLE_OF_NAME = _ROLE_OF | {word: role for role, words in IN_NAMES.items() for word in words.split()}


def words_of(name: str) -> list[str]:
    """Lower-case words of a name: `EMG_left1` is `["emg", "left"]`, `samplingRate` is `["sampling", "rate"]`."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", apart)]


def sensor_of(name: str) -> str | None:
    """The modality that a name speaks of."""
    words = words_of(name)
    for word in (*words, "".join(words)):
        if word in _SENSOR_OF:
            return _SENSOR_OF[word]
    return next((s for word in words for s in ("emg", "acc", "gyro") if word.startswith(s) or word.endswith(s)), None)


def role_of(name: str, of_file: bool = False) -> str | None:
    """What a name says of its values: time, label, repetition, subject, session or rate."""
    words, known = words_of(name), _ROLE_OF_NAME if of_file else _ROLE_OF
    if {*words, "".join(words)} & {*RATES.split()}:
        return "rate"
    return next((known[word] for word in ("".join(words), *words) if word in known), None)


def is_ignored(name: str) -> bool:
    """Whether a column's name says that it is no channel of a sensor."""
    return bool({*IGNORED.split()} & {*words_of(name)})


def are_gestures(values: Iterable[str]) -> bool:
    """Whether most of the values contain a word for a gesture."""
    known, different = {*GESTURES.split()}, {*values}
    return sum(bool(known & {*words_of(value)}) for value in different) > len(different) / 2


def axes_of(names: Iterable[str]) -> dict[str, str]:
    """The modality of columns that are called like the axes of a sensor: `{"ax": "acc", ...}`."""
    plain = {re.sub(r"[\W_]", "", name.lower()): name for name in names}
    return {
        plain[axis]: sensor
        for sensor, sets in reversed(AXES.items())
        for axes in sets
        if all(axis in plain for axis in axes.split())
        for axis in axes.split()
    }
