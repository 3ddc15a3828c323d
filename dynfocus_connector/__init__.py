"""DynFocus: video tokens for language models. 40 for the frames that matter, 2 for every other one.

Features in, which frames matter (DPE), tokens out (CCE).
"""

from dynfocus_connector.baselines import build_baseline as build_baseline
from dynfocus_connector.budget import BudgetPlan as BudgetPlan
from dynfocus_connector.budget import TokenBudget as TokenBudget
from dynfocus_connector.checks import check_features as check_features
from dynfocus_connector.cones import ConeEncoder as ConeEncoder
from dynfocus_connector.config import DynFocusConfig as DynFocusConfig
from dynfocus_connector.connector import DynFocusConnector as DynFocusConnector
from dynfocus_connector.connector import build_connector as build_connector
from dynfocus_connector.contracts import CompressedVideo as CompressedVideo
from dynfocus_connector.contracts import FrameSelection as FrameSelection
from dynfocus_connector.contracts import TokenKind as TokenKind
from dynfocus_connector.encoder import CompactCooperativeEncoder as CompactCooperativeEncoder
from dynfocus_connector.estimator import DynamicPrototypeEstimator as DynamicPrototypeEstimator
from dynfocus_connector.kmeans import kmeans as kmeans
from dynfocus_connector.kmeans import weighted_kmeans as weighted_kmeans
from dynfocus_connector.peaks import DensityPeaks as DensityPeaks
from dynfocus_connector.peaks import density_peaks as density_peaks
from dynfocus_connector.prototypes import merge_prototypes as merge_prototypes
from dynfocus_connector.redundancy import Redundancy as Redundancy
from dynfocus_connector.redundancy import estimate_redundancy as estimate_redundancy
from dynfocus_connector.rods import RodEncoder as RodEncoder
from dynfocus_connector.score import QuestionScoreNetwork as QuestionScoreNetwork
from dynfocus_connector.score import ScoreNetwork as ScoreNetwork
from dynfocus_connector.spatial import SpatialPrototypes as SpatialPrototypes
from dynfocus_connector.splicing import SplicedPrompt as SplicedPrompt
from dynfocus_connector.splicing import splice as splice
from dynfocus_connector.streaming import StreamingConnector as StreamingConnector
from dynfocus_connector.topk import exact_topk as exact_topk
from dynfocus_connector.topk import hard_topk as hard_topk
from dynfocus_connector.topk import perturbed_topk as perturbed_topk

__version__ = "0.1.0"
