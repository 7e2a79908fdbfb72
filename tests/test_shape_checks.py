"""The tests check the annotations of array shapes."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from shape_checks import check_shapes

from emg_lens.models.mixing import attend
from emg_lens.scoring.regression import _errors
from emg_lens.training.objectives import OBJECTIVES
from emg_lens.training.recipe import TrainingRecipe


def test_a_wrong_shape_raises():
    q, k = torch.zeros(2, 5, 3, 4), torch.zeros(2, 6, 3, 4)
    assert attend(q, k, k, None, 0.0).shape == q.shape
    with pytest.raises(TypeCheckError, match="head"):
        attend(q, k[:, :, :2], k, None, 0.0)
    with pytest.raises(TypeCheckError, match="src"):
        attend(q, k, k[:, :4], None, 0.0)
    with pytest.raises(TypeCheckError):
        _errors(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(TypeCheckError, match="trial"):
        OBJECTIVES["regression"].losses(torch.zeros(3, 2), torch.zeros(4, 2), TrainingRecipe())


def test_nothing_but_arrays_is_checked():
    def loud(name: str, times: int) -> str:
        return str(name) * times

    assert check_shapes(loud) is loud and loud(5, 2) == "55"
