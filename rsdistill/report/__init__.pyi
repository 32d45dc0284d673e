from .audit_page import suspicious_pairs as suspicious_pairs
from .audit_page import write_audit as write_audit
from .html import write_report as write_report
from .plots import accuracy_against_leakage as accuracy_against_leakage
from .plots import training_curves as training_curves
from .sheets import contact_sheet as contact_sheet
from .sheets import nearest_sheet as nearest_sheet
from .sheets import shared_limits as shared_limits
from .spectra import (
    class_spectra as class_spectra,
)
from .spectra import (
    index_histograms as index_histograms,
)
from .spectra import (
    spectral_agreement as spectral_agreement,
)
