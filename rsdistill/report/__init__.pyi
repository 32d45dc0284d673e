from .audit_page import suspicious_pairs as suspicious_pairs
from .audit_page import write_audit as write_audit
from .figures import accuracy_against_leakage as accuracy_against_leakage
from .figures import contact_sheet as contact_sheet
from .figures import nearest_sheet as nearest_sheet
from .figures import shared_limits as shared_limits
from .figures import training_curves as training_curves
from .html import write_report as write_report
from .spectra import (
    class_spectra as class_spectra,
)
from .spectra import (
    index_histograms as index_histograms,
)
from .spectra import (
    spectral_agreement as spectral_agreement,
)
