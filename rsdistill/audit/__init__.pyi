from .audit_report import AuditReport as AuditReport
from .audit_report import TileFinding as TileFinding
from .auditor import Auditor as Auditor
from .auditor import apply as apply
from .auditor import audit as audit
from .calibration import AuditOptions as AuditOptions
