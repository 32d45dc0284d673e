from .leakage import (
    CopyRatio as CopyRatio,
)
from .leakage import (
    HeldOutNull as HeldOutNull,
)
from .leakage import (
    Leakage as Leakage,
)
from .leakage import (
    copy_ratio as copy_ratio,
)
from .leakage import (
    held_out_null as held_out_null,
)
from .leakage import (
    leakage as leakage,
)
from .metrics import (
    METRICS as METRICS,
)
from .metrics import (
    Scores as Scores,
)
from .metrics import (
    alpha_score as alpha_score,
)
from .metrics import (
    ars as ars,
)
from .metrics import (
    average_accuracy as average_accuracy,
)
from .metrics import (
    cohen_kappa as cohen_kappa,
)
from .metrics import (
    confusion_matrix as confusion_matrix,
)
from .metrics import (
    coverage as coverage,
)
from .metrics import (
    hlr as hlr,
)
from .metrics import (
    ior as ior,
)
from .metrics import (
    lrs as lrs,
)
from .metrics import (
    overall_accuracy as overall_accuracy,
)
from .protocol import evaluate as evaluate
from .results import EvaluationReport as EvaluationReport
from .results import Row as Row
from .spectral import (
    ClassAgreement as ClassAgreement,
)
from .spectral import (
    chip_spectra as chip_spectra,
)
from .spectral import (
    class_agreement as class_agreement,
)
from .spectral import (
    ergas as ergas,
)
from .spectral import (
    index_distance as index_distance,
)
from .spectral import (
    index_error as index_error,
)
from .spectral import (
    mean_spectrum as mean_spectrum,
)
from .spectral import (
    psnr_per_band as psnr_per_band,
)
from .spectral import (
    signal_range as signal_range,
)
from .spectral import (
    spectral_angle as spectral_angle,
)
from .spectral import (
    spectrum_correlation as spectrum_correlation,
)
from .spectral import (
    spectrum_distance as spectrum_distance,
)
from .spectral import (
    ssim_per_band as ssim_per_band,
)
from .student_training import (
    Recipe as Recipe,
)
from .student_training import (
    Student as Student,
)
from .student_training import (
    evaluate_student as evaluate_student,
)
from .student_training import (
    predict as predict,
)
from .student_training import (
    train_student as train_student,
)
